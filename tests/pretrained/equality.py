"""Whether a codec gives what its reference gives; for any `Codec` and any two functions.

A reference takes one clip at a time, for most make something else of a clip that is padded:

  encode: waveform [samples] -> codes [frames, quantizers]
  decode: codes [frames, quantizers] -> waveform [samples], of any length near frames * hop_length
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class CodeDifference(NamedTuple):
  """How many frames were compared, and how many have another code than the reference's."""

  frames: int
  different: int


class SoundDifference(NamedTuple):
  """Largest difference over the largest magnitude, and samples that only the codec makes."""

  relative: float
  beyond: int


def compare_codes(
  reference: Callable[[np.ndarray], np.ndarray], codec: Any, clips: Sequence[np.ndarray]
) -> CodeDifference:
  """Codes of each clip alone; asserts that there are `ceil(samples / hop_length)` frames."""
  frames = different = 0
  for clip in clips:
    ours, theirs = codec.encode(clip[None])[0], reference(clip)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    assert len(ours) == -(-len(clip) // codec.spec.hop_length)
    frames += len(ours)
    different += int(np.any(ours != theirs, axis=1).sum())
  return CodeDifference(frames, different)


def compare_sound(
  reference: Callable[[np.ndarray], np.ndarray], codec: Any, codes: np.ndarray
) -> SoundDifference:
  """Sound of one clip's codes; asserts that there are `frames * hop_length` samples."""
  ours, theirs = codec.decode(codes[None])[0], reference(codes)
  assert len(ours) == len(codes) * codec.spec.hop_length
  both = min(len(ours), len(theirs))
  return SoundDifference(relative_difference(ours[:both], theirs[:both]), len(ours) - both)


def assert_equals_reference(
  reference: Any, codec: Any, clips: Sequence[np.ndarray], tied_frames: int = 0
) -> CodeDifference:
  """Codes of every clip, and sound of its codes, are those of a `CodecReference`."""
  found = compare_codes(reference.encode, codec, clips)
  assert found.different <= tied_frames, found
  for clip in clips:
    sound = compare_sound(reference.decode, codec, reference.encode(clip))
    assert sound.relative < 1e-4 and sound.beyond == 0
  return found


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
  """Largest difference over the largest magnitude of the reference."""
  return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def assert_batched_equals_single(codec: Any, clips: Sequence[np.ndarray], atol: float) -> None:
  """Clips of unequal lengths side by side, whatever stands behind the shorter ones."""
  hop = codec.spec.hop_length
  alone = [codec.encode(clip[None])[0] for clip in clips]
  longest = max(len(clip) for clip in clips)
  rubbish = np.random.default_rng(9).uniform(-1, 1, (len(clips), longest)).astype(np.float32)
  for row, clip in zip(rubbish, clips, strict=True):
    row[: len(clip)] = clip
  codes = codec.encode(rubbish, np.array([len(clip) for clip in clips]))
  for row, single in zip(codes, alone, strict=True):
    np.testing.assert_array_equal(row[: len(single)], single)
    assert not row[len(single) :].any()
  for clip, together in zip(alone, codec.encode_clips(clips, len(clips)), strict=True):
    np.testing.assert_array_equal(together, clip)
  codes = np.where(codes == 0, codec.spec.codebook_size - 1, codes)  # rubbish there too
  for row, single in zip(codes, alone, strict=True):
    row[: len(single)] = single
  sound = codec.decode(codes, np.array([len(single) for single in alone]))
  for row, single in zip(sound, alone, strict=True):
    np.testing.assert_allclose(
      row[: len(single) * hop], codec.decode(single[None])[0], rtol=0, atol=atol
    )
    assert not row[len(single) * hop :].any()


def assert_streamed_equals_whole(
  codec: Any, clip: np.ndarray, samples: Sequence[int], frames: Sequence[int], atol: float
) -> None:
  """Streams a clip in pieces of `samples`, its codes in pieces of `frames`, and then the rest."""
  encoder = codec.stream_encoder()
  pieces = [encoder.push(piece[None]) for piece in _cut(clip, samples)]
  codes = np.concatenate([*pieces, encoder.flush()], axis=1)
  np.testing.assert_array_equal(codes, codec.encode(clip[None]))
  decoder = codec.stream_decoder()
  pieces = [decoder.push(piece[None]) for piece in _cut(codes[0], frames)]
  sound = np.concatenate([*pieces, decoder.flush()], axis=1)
  np.testing.assert_allclose(sound, codec.decode(codes), rtol=0, atol=atol)


def _cut(whole: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
  places = np.cumsum(lengths)
  return np.split(whole, places[places < len(whole)])
