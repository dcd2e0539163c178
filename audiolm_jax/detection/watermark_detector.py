"""Detects the watermark of a bundle in audio, from the codes of the audio.

A low p-value means that audio without this watermark very rarely matches the key equally well. A
high p-value does not show that the audio is real: strong processing or a codec can remove a
watermark, and the audio of other generators does not have this watermark.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Float, Int, UInt32

from audiolm_jax.codec.interface import Codec
from audiolm_jax.detection.evidence import Evidence, Findings, Match, level_shares
from audiolm_jax.detection.green_list import PAYLOAD_BITS
from audiolm_jax.detection.watermark import Watermark
from audiolm_jax.io import audio, waveforms

# Offsets per frame. Audio may have been cut at any sample, and codes depend on the offset.
OFFSETS = 16
_PIECE_FRAMES = 64


class Payload(NamedTuple):
  """The payload of a watermark.

  Attributes:
    content: 1 or 4 bytes.
    confidence: for each bit, the estimated probability that the bit is correct, 0.5 to 1. The first
      number is for the most significant bit of the first byte.
  """

  content: bytes
  confidence: list[float]


class WatermarkDetection(NamedTuple):
  """The result of detection for one clip.

  Attributes:
    log10_p_value: log10 of the p-value of the clip, corrected for all searches (over offsets,
      windows, positions and payloads).
    per_second: for each second, the p-value of the nearest window (4 s, or a whole shorter clip),
      corrected for all searches except the search over windows.
    payload: the payload with the best match; None if the watermark without a payload matches
      better. If the p-value is not low, the payload is random.
  """

  log10_p_value: float
  per_second: list[float]
  payload: Payload | None

  @property
  def p_value(self) -> float:
    """Upper bound of the probability of an equal or better match without this watermark."""
    return 10.0**self.log10_p_value


@dataclasses.dataclass(frozen=True)
class WatermarkDetector:
  """Detects the watermark of a bundle in audio.

  Attributes:
    watermark: the watermark of the bundle.
    codec: the codec of the bundle.
    key: the key to search for, four uint32 words.
  """

  watermark: Watermark
  codec: Codec
  key: UInt32[np.ndarray, "4"]

  @property
  def sample_rate(self) -> int:
    """The sample rate of the codec in Hz."""
    return self.codec.spec.sample_rate

  @no_type_check  # the method checks its arguments
  def detect(
    self,
    waveform: Float[np.ndarray, "samples"],
    sample_rate: int,
    name: str = "the waveform",
    *,
    channel_axis: int | None = None,
  ) -> WatermarkDetection:
    """Detects the watermark in a waveform.

    Args:
      waveform: samples in [-1, 1].
      sample_rate: Hz; the waveform is resampled if needed.
      name: name of the audio in error messages.
      channel_axis: axis of the channels, which are averaged; None for one channel.

    Raises:
      AudioError: the waveform is not one clip of valid samples, or the sample rate is out of range.
      UserError: `channel_axis` is not an axis of the waveform.
    """
    sample_rate = waveforms.check_rate(sample_rate)
    waveform = waveforms.check(
      waveform, sample_rate, channel_axis=channel_axis, most_axes=1, name=name
    )
    return self.detect_blocks([audio.resample(waveform, sample_rate, self.sample_rate)])

  def detect_blocks(self, blocks: Iterable[Float[np.ndarray, "_block"]]) -> WatermarkDetection:
    """Detects the watermark in blocks of any length at the codec's rate, in bounded memory."""
    found = find(self.watermark, self.key[None], self.codec, blocks)
    per_second = [float(10.0**value) for value in found.per_second[:, 0]]
    return WatermarkDetection(float(found.log10_p[0]), per_second, payload_of(found.best))


def payload_of(best: Match, key: int = 0) -> Payload | None:
  """Returns the payload that matches best; None if the match without a payload is best.

  Args:
    best: the best match for each number of payload bits and key.
    key: index of the key.
  """
  kind = int((best.log10_p[:, key] - np.log10(level_shares(len(best.log10_p)))).argmin())
  bits, entries = PAYLOAD_BITS[kind], int(best.entries[kind, key])
  if not bits or not entries:
    return None
  votes = best.votes[kind, key, :bits][::-1]
  content = int("".join("01"[int(vote > 0)] for vote in votes), 2).to_bytes(bits // 8, "big")
  # The probability that an entry votes for the correct bit is estimated from the votes of all
  # entries.
  right = (entries + int(np.abs(votes).sum()) + 1) / 2
  odds = np.abs(votes) * math.log(right / (entries + 1 - right))
  return Payload(content, [float(value) for value in 1 / (1 + np.exp(-odds))])


def find(
  watermark: Watermark,
  keys: UInt32[np.ndarray, "keys 4"],
  codec: Codec,
  blocks: Iterable[Float[np.ndarray, "_block"]],
) -> Findings:
  """Tests audio for a watermark with each key.

  Args:
    watermark: the watermark to find.
    keys: the keys to search for.
    codec: the codec of the bundle.
    blocks: the audio in blocks of any length, at the codec's sample rate.
  """
  spec = codec.spec
  evidence = Evidence(watermark, keys, spec.frame_rate, len(_offsets(spec.hop_length)))
  for codes in offset_codes(codec, blocks):
    evidence.push(codes)
  return evidence.finish()


def offset_codes(
  codec: Codec, blocks: Iterable[Float[np.ndarray, "_block"]]
) -> Iterator[Int[np.ndarray, "offsets _frames quantizers"]]:
  """Yields the codes of the audio after each offset (see `_offsets`), without partial frames.

  Args:
    codec: the codec.
    blocks: the audio in blocks of any length, at the codec's sample rate.
  """
  hop = codec.spec.hop_length
  offsets, piece = _offsets(hop), _PIECE_FRAMES * hop
  stream = codec.stream_encoder(len(offsets))
  kept = np.zeros(0, np.float32)
  received = encoded = 0

  def pushed() -> Int[np.ndarray, "offsets frames quantizers"]:
    nonlocal kept
    codes = np.asarray(stream.push(np.stack([kept[o : o + piece] for o in offsets])))
    kept = kept[piece:]
    return codes

  for block in blocks:
    received += len(block)
    kept = np.concatenate([kept, block])
    while len(kept) >= piece + hop:
      codes = pushed()
      encoded += codes.shape[1]
      yield codes
  frames = max(0, received - offsets[-1]) // hop
  # Pieces of equal length need few programs. Frames of the padding are dropped.
  while encoded < frames:
    kept = np.pad(kept, (0, max(0, piece + hop - len(kept))))
    codes = pushed()[:, : frames - encoded]
    encoded += codes.shape[1]
    yield codes


def _offsets(hop: int) -> list[int]:
  """Returns offsets in samples: `OFFSETS` per frame, or fewer if `hop` is less than `OFFSETS`."""
  count = min(OFFSETS, hop)
  return [round(i * hop / count) for i in range(count)]
