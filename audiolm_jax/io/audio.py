"""Reads, resamples, checks and writes audio files."""

import io
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile  # pyright: ignore[reportMissingTypeStubs]: its types are in the module
import soxr  # pyright: ignore[reportMissingTypeStubs]: its types are in the module
from jaxtyping import Float, Shaped

from audiolm_jax.core.errors import AudioError
from audiolm_jax.core.sliced import SlicedBlocks
from audiolm_jax.io.audio_file import check_rate, checked, opened, peak_of
from audiolm_jax.io.files import atomic_write

_WRITABLE = {
  ".wav": ("WAV", "PCM_16"),
  ".flac": ("FLAC", "PCM_16"),
  ".ogg": ("OGG", "VORBIS"),
  ".aiff": ("AIFF", "PCM_16"),
  ".aif": ("AIFF", "PCM_16"),
  ".mp3": ("MP3", "MPEG_LAYER_III"),
}
_SILENT = 1e-4  # a lower peak (-80 dB) counts as silence
_QUALITY = "HQ"


def read_audio(
  path: str | os.PathLike[str], *, seconds: float | None = None
) -> tuple[Float[np.ndarray, " samples"], int]:
  """Reads an audio file as one channel.

  Args:
    path: a file of any common format, sample width and number of channels. The channels are
      averaged.
    seconds: maximum duration to read from the beginning; None for the whole file.

  Returns:
    Samples in [-1, 1] (larger values are clipped), and the sample rate of the file in Hz.

  Raises:
    AudioError: the file is missing, not audio, truncated, damaged or empty; its sample rate is not
      supported; or a sample is NaN, infinite or above 10 in absolute value.
    UserError: the store of a URL cannot be reached.
  """
  with opened(path) as file:
    limit = None if seconds is None else max(1, round(seconds * file.sample_rate))
    waveform = np.concatenate([np.zeros(0, np.float32), *file.blocks(limit)])
    return waveform, file.sample_rate


def read_blocks(
  path: str | os.PathLike[str], *, sample_rate: int, block_samples: int
) -> Generator[Float[np.ndarray, "_block"], None, None]:
  """Yields an audio file, resampled to `sample_rate` Hz, in blocks of `block_samples` samples.

  Except for rounding errors, the concatenated blocks equal the waveform of `read_audio` after
  `resample`. Only the last block may be shorter. A longer local file does not need more memory.

  Raises:
    AudioError, UserError: see `read_audio`; an error late in a file is raised at its block.
  """
  with opened(path) as file:
    pending = np.zeros(0, np.float32)
    for piece in resampled_blocks(file.blocks(None), file.sample_rate, sample_rate):
      pending = np.concatenate([pending, piece])
      while len(pending) > block_samples:
        yield pending[:block_samples]
        pending = pending[block_samples:]
    if len(pending):
      yield pending


def load_audio(
  path: str | os.PathLike[str], sample_rate: int, *, seconds: float | None = None
) -> Float[np.ndarray, " samples"]:
  """Reads an audio file as one channel at `sample_rate` Hz; resamples it block by block.

  Args:
    path: the file.
    sample_rate: sample rate of the result in Hz.
    seconds: maximum duration to read from the beginning; None for the whole file.

  Raises:
    AudioError, UserError: see `read_audio`.
  """
  with opened(path) as file:
    limit = None if seconds is None else max(1, round(seconds * file.sample_rate))
    waveform, filled = np.empty(0, np.float32), 0
    for piece in resampled_blocks(file.blocks(limit), file.sample_rate, sample_rate):
      if filled + len(piece) > len(waveform):
        # The length is doubled: `resize` does not copy a long array, and unused memory pages are
        # not allocated.
        waveform.resize(max(2 * len(waveform), filled + len(piece)), refcheck=False)
      waveform[filled : filled + len(piece)] = piece
      filled += len(piece)
    waveform.resize(filled, refcheck=False)
  return waveform


class SlicedAudio(SlicedBlocks):
  """An audio file of any length as one channel, which is read in slices.

  The memory contains the blocks of the current slice and, for a URL, the encoded file.

  A `SlicedAudio` can replace the array of `load_audio` if slices are taken in increasing order; the
  slices may overlap. The constructor reads the file once to determine its length. Each
  series of slices in increasing order reads the file again.

  Args:
    path: the file.
    sample_rate: sample rate of the slices in Hz.

  Attributes:
    peak: largest absolute sample of the file at its own sample rate, after averaging channels.
    resampled_peak: largest absolute sample of the resampled audio that was read up to now.

  Raises:
    AudioError: see `read_audio`; also raised by a slice if the file has become shorter.
    UserError: see `read_audio`.
  """

  def __init__(self, path: str | os.PathLike[str], sample_rate: int):
    self._path, self._rate = path, sample_rate
    samples, self.peak, self.resampled_peak = 0, 0.0, 0.0
    with opened(path) as file:
      for block in file.blocks(None):
        samples += len(block)
        self.peak = max(self.peak, peak_of(block))
      super().__init__(self._read, (resampled_length(samples, file.sample_rate, sample_rate),))

  def _read(self) -> Iterator[Float[np.ndarray, "_block"]]:
    with opened(self._path) as file:
      blocks = file.blocks(None, warn=False)
      for piece in resampled_blocks(blocks, file.sample_rate, self._rate):
        if len(piece):
          self.resampled_peak = max(self.resampled_peak, peak_of(piece))
          yield piece
    raise AudioError(f"{self._path} changed while it was read; run the command again")


def resample(
  waveform: Float[np.ndarray, "*batch samples"], from_rate: int, to_rate: int
) -> Float[np.ndarray, "*batch resampled"]:
  """Returns the waveform resampled from `from_rate` to `to_rate` Hz.

  The result has `resampled_length` samples. If the rates differ, it is clipped to [-1, 1].

  Raises:
    AudioError: a rate is outside the supported range.
  """
  check_rate(from_rate, "the waveform")
  check_rate(to_rate, "the waveform")
  waveform = np.asarray(waveform, np.float32)
  if from_rate == to_rate or waveform.shape[-1] == 0:
    return waveform
  samples = waveform.shape[-1]
  rows = [
    soxr.resample(row, from_rate, to_rate, quality=_QUALITY)
    for row in waveform.reshape(-1, samples)
  ]
  length = resampled_length(samples, from_rate, to_rate)
  fitted = np.stack([fit_length(row, length) for row in rows])
  return np.clip(fitted, -1.0, 1.0).reshape(*waveform.shape[:-1], length)


def resampled_blocks(
  blocks: Iterator[Float[np.ndarray, "_block"]], from_rate: int, to_rate: int
) -> Iterator[Float[np.ndarray, "_block"]]:
  """Yields the blocks of a waveform resampled from `from_rate` to `to_rate` Hz.

  `resampled_length` returns the total number of samples.
  """
  if from_rate == to_rate:
    yield from blocks
    return
  stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality=_QUALITY)
  consumed = produced = 0
  for block in blocks:
    consumed += len(block)
    piece = stream.resample_chunk(block)
    produced += len(piece)
    yield np.clip(piece, -1.0, 1.0)
  missing = resampled_length(consumed, from_rate, to_rate) - produced
  tail = stream.resample_chunk(np.zeros(0, np.float32), last=True)
  yield np.clip(fit_length(tail, max(0, missing)), -1.0, 1.0)


def resampled_length(samples: int, from_rate: int, to_rate: int) -> int:
  """Returns the number of samples after resampling, rounded half up."""
  return (2 * samples * to_rate + from_rate) // (2 * from_rate)


def write_audio(
  path: str | os.PathLike[str],
  waveform: Float[np.ndarray, " samples"],
  sample_rate: int,
  tags: Mapping[str, str] | None = None,
  sign: Callable[[bytes], bytes] | None = None,
) -> None:
  """Writes one channel atomically, in the format that the extension selects.

  Args:
    path: the file to write; ".wav" selects 16-bit PCM.
    waveform: samples, at least one; values outside [-1, 1] are clipped.
    sample_rate: Hz.
    tags: metadata such as "title", "comment" and "software", named like the attributes of
      `soundfile.SoundFile`.
    sign: function that converts the encoded content to signed content before it is written; None
      to write no signature.

  Raises:
    AudioError: the extension is not supported, or the waveform is empty, has several axes, or has
      NaN or infinite samples.
    UserError: the file cannot be written.
  """
  container, subtype = check_output_format(path)
  waveform = np.asarray(waveform, np.float32)
  if waveform.ndim != 1 or not len(waveform):
    raise AudioError(
      f"cannot write a waveform of shape {waveform.shape} to {path}; give one channel of samples"
    )
  if not np.isfinite(waveform).all():
    raise AudioError(f"cannot write {path}: the waveform has NaN or infinite samples")
  # libsndfile does not report a full disk. It therefore encodes to memory, and `atomic_write`
  # writes the file.
  encoded = io.BytesIO()
  with soundfile.SoundFile(
    encoded, "w", sample_rate, channels=1, format=container, subtype=subtype
  ) as file:
    for name, text in (tags or {}).items():
      setattr(file, name, text)
    file.write(np.clip(waveform, -1.0, 1.0))
  content = encoded.getvalue() if sign is None else sign(encoded.getvalue())
  with atomic_write(path) as file:
    file.write(content)


def read_tags(path: str | os.PathLike[str]) -> list[dict[str, str]]:
  """Returns the metadata of each stream in a file, with the tag names of `write_audio`.

  A file has several streams if it was made by concatenating files.

  Raises:
    AudioError, UserError: see `audio_file.opened`.
  """
  with opened(path) as file:
    return file.tags()


def check_output_format(path: str | os.PathLike[str]) -> tuple[str, str]:
  """Returns libsndfile's names of the container and subtype that the extension of `path` selects.

  Raises:
    AudioError: the extension is not supported.
  """
  extension = Path(path).suffix.lower()
  if extension not in _WRITABLE:
    shown = f"the extension {extension!r}" if extension else "no extension"
    raise AudioError(f"{path} has {shown}; use one of {', '.join(sorted(_WRITABLE))}")
  return _WRITABLE[extension]


def can_write(extension: str) -> bool:
  """Returns whether `write_audio` supports an extension, such as ".mp3", on this machine."""
  container, _ = _WRITABLE.get(extension, ("", ""))
  return container in soundfile.available_formats()


def as_waveform(
  samples: Shaped[np.ndarray, "*batch samples"], name: str = "the waveform"
) -> Float[np.ndarray, "*batch samples"]:
  """Converts samples of any number type to float32 in [-1, 1].

  Args:
    samples: floats in [-1, 1], or integers that use the whole range of their type.
    name: name of the samples in error messages.

  Raises:
    AudioError: the samples are empty, are neither floats nor integers, or contain a float that is
      NaN, infinite or above 10 in absolute value.
  """
  samples = np.asarray(samples)
  if samples.dtype.kind in "iu":
    width = np.iinfo(samples.dtype)
    middle = 0.0 if samples.dtype.kind == "i" else (width.max + 1) / 2
    scale = float(width.max) + 1.0 - middle
    waveform = ((samples.astype(np.float64) - middle) / scale).astype(np.float32)
  elif samples.dtype.kind == "f":
    waveform = samples.astype(np.float32, copy=False)
  else:
    raise AudioError(f"{name} holds {samples.dtype}; give floats in [-1, 1] or integers")
  if not waveform.size:
    raise AudioError(f"{name} holds no samples")
  return checked(waveform, name)


def check_readable(path: str | os.PathLike[str]) -> None:
  """Raises `AudioError` or `UserError` if `path` cannot be opened, see `audio_file.opened`."""
  with opened(path):
    pass


def check_not_silent(waveform: Float[np.ndarray, "*batch samples"], name: str) -> None:
  """Raises `AudioError` if a row of `waveform` is silent."""
  for row in waveform.reshape(-1, waveform.shape[-1]):
    check_peak(peak_of(row), name)


def check_peak(peak: float, name: str) -> None:
  """Raises `AudioError` if `peak`, the largest absolute sample, is below 1e-4 (silence)."""
  if peak < _SILENT:
    raise AudioError(
      f"{name} is silent (its peak is {peak:.1e}, and at least {_SILENT:.0e} is needed); "
      "give a louder recording"
    )


def check_length(samples: int, sample_rate: int, least_seconds: float, name: str) -> None:
  """Raises `AudioError` if a waveform of `samples` samples is shorter than `least_seconds`."""
  if samples < least_seconds * sample_rate:
    raise AudioError(
      f"{name} is {samples / sample_rate:.2f} s long; at least {least_seconds:.2f} s are needed"
    )


def fit_length(row: Float[np.ndarray, " samples"], length: int) -> Float[np.ndarray, " length"]:
  """Returns `row` cut or padded with zeros to `length` samples."""
  return np.pad(row[:length], (0, max(0, length - len(row))))
