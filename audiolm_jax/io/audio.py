"""Reads and writes audio files; no other module does."""

import contextlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Num

from audiolm_jax.core.errors import AudioError
from audiolm_jax.io import storage
from audiolm_jax.io.files import atomic_write

READABLE = "wav, flac, ogg, opus, mp3, aiff, au, w64 or caf"
_WRITABLE = {
  ".wav": ("WAV", "PCM_16"),
  ".flac": ("FLAC", "PCM_16"),
  ".ogg": ("OGG", "VORBIS"),
  ".aiff": ("AIFF", "PCM_16"),
  ".aif": ("AIFF", "PCM_16"),
  ".mp3": ("MP3", "MPEG_LAYER_III"),
}
_RATES = (1_000, 768_000)
_LOUDEST = 10.0  # a higher peak of float samples is not overshoot but another scale
_SILENT = 1e-4  # a lower peak (-80 dB) counts as silence
_BLOCK_FRAMES = 1 << 18
_QUALITY = "HQ"
# libsndfile logs this if the size in a header differs from the size of the file.
_CORRECTED_SIZE = re.compile(
  r"^\s*(?:data|SSND|riff|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)


def read_audio(
  path: str | os.PathLike[str], *, seconds: float | None = None
) -> tuple[Float[np.ndarray, " samples"], int]:
  """Reads an audio file as one channel.

  Args:
    path: a file of any common format, sample width and number of channels, which are averaged.
    seconds: read at most this much from the beginning; None for the whole file.
  Returns:
    Samples in [-1, 1] (louder ones are clipped), and the file's sample rate in Hz.
  Raises:
    AudioError: the file is missing, not audio, truncated or empty, or has NaN or infinite samples.
  """
  with _opened(path) as file:
    limit = None if seconds is None else max(1, round(seconds * file.samplerate))
    waveform = np.concatenate([np.zeros(0, np.float32), *_mono_blocks(file, path, limit)])
    return waveform, file.samplerate


def read_blocks(
  path: str | os.PathLike[str], *, sample_rate: int, block_samples: int
) -> Iterator[Float[np.ndarray, " block"]]:
  """Yields an audio file at `sample_rate` in blocks of `block_samples`, in bounded memory.

  Concatenated, the blocks equal `resample` of `read_audio`. Only the last block may be shorter.

  Raises:
    AudioError: see `read_audio`; an error late in a file is raised when its block is read.
  """
  with _opened(path) as file:
    pending = np.zeros(0, np.float32)
    for piece in _resampled(_mono_blocks(file, path, None), file.samplerate, sample_rate):
      pending = np.concatenate([pending, piece])
      while len(pending) > block_samples:
        yield pending[:block_samples]
        pending = pending[block_samples:]
    if len(pending):
      yield pending


def load_audio(
  path: str | os.PathLike[str], sample_rate: int, *, seconds: float | None = None
) -> Float[np.ndarray, " samples"]:
  """Reads an audio file as one channel at `sample_rate`, with memory for the result only.

  Args:
    path: the file.
    sample_rate: of the result, in Hz.
    seconds: read at most this much from the beginning; None for the whole file.
  Raises:
    AudioError: see `read_audio`.
  """
  with _opened(path) as file:
    limit = None if seconds is None else max(1, round(seconds * file.samplerate))
    frames = file.frames if limit is None else min(limit, file.frames)
    waveform = np.empty(resampled_length(frames, file.samplerate, sample_rate), np.float32)
    filled = 0
    for piece in _resampled(_mono_blocks(file, path, limit), file.samplerate, sample_rate):
      waveform[filled : filled + len(piece)] = piece
      filled += len(piece)
  return waveform[:filled]


def resample(
  waveform: Float[np.ndarray, "*batch samples"], from_rate: int, to_rate: int
) -> Float[np.ndarray, "*batch resampled"]:
  """Returns the waveform at another sample rate, with `resampled_length` samples.

  Raises:
    AudioError: a rate is outside the supported range.
  """
  _check_rate(from_rate, "the waveform")
  _check_rate(to_rate, "the waveform")
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


def resampled_length(samples: int, from_rate: int, to_rate: int) -> int:
  """Returns the number of samples of a waveform at another rate, rounded half up."""
  return (2 * samples * to_rate + from_rate) // (2 * from_rate)


def write_audio(
  path: str | os.PathLike[str],
  waveform: Float[np.ndarray, " samples"],
  sample_rate: int,
  tags: Mapping[str, str] | None = None,
) -> None:
  """Writes one channel atomically, in the format that the extension selects.

  Args:
    path: the file to write; ".wav" selects 16-bit PCM.
    waveform: samples; values outside [-1, 1] are clipped.
    sample_rate: Hz.
    tags: metadata such as "title", "comment" and "software", named like the attributes of
      `soundfile.SoundFile`.
  Raises:
    AudioError: the extension is not supported, or samples are not finite.
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
  # libsndfile does not report a full disk, so it encodes to memory and `atomic_write` writes.
  encoded = io.BytesIO()
  with soundfile.SoundFile(
    encoded, "w", sample_rate, channels=1, format=container, subtype=subtype
  ) as file:
    for name, text in (tags or {}).items():
      setattr(file, name, text)
    file.write(np.clip(waveform, -1.0, 1.0))
  with atomic_write(path) as file:
    file.write(encoded.getbuffer())


def read_tags(path: str | os.PathLike[str]) -> dict[str, str]:
  """Returns the metadata of a file, with the names that `write_audio` takes."""
  with _opened(path) as file:
    return file.copy_metadata()


def check_output_format(path: str | os.PathLike[str]) -> tuple[str, str]:
  """Returns the container and subtype that the extension of `path` selects.

  Raises:
    AudioError: the extension is not supported.
  """
  extension = Path(path).suffix.lower()
  if extension not in _WRITABLE:
    shown = f"the extension {extension!r}" if extension else "no extension"
    raise AudioError(f"{path} has {shown}; use one of {', '.join(sorted(_WRITABLE))}")
  return _WRITABLE[extension]


def as_waveform(
  samples: Num[np.ndarray, "*batch samples"], name: str = "the waveform"
) -> Float[np.ndarray, "*batch samples"]:
  """Converts samples of any number type to float32 in [-1, 1].

  Args:
    samples: floats in [-1, 1], or integers that use the whole range of their type.
    name: of the samples, for messages.
  Raises:
    AudioError: the samples are not numbers, empty, NaN, infinite, or floats on an integer scale.
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
  return _checked(waveform, name)


def check_readable(path: str | os.PathLike[str]) -> None:
  """Raises `AudioError` if `path` cannot be opened as an audio file."""
  with _opened(path):
    pass


def check_not_silent(waveform: Float[np.ndarray, "*batch samples"], name: str) -> None:
  """Raises `AudioError` if a row of `waveform` is silent."""
  for row in waveform.reshape(-1, waveform.shape[-1]):
    peak = _peak(row)
    if peak < _SILENT:
      raise AudioError(
        f"{name} is silent (its peak is {peak:.1e}, and at least {_SILENT:.0e} is needed); "
        "give a louder recording"
      )


def check_length(samples: int, sample_rate: int, least_seconds: float, name: str) -> None:
  """Raises `AudioError` if `samples` samples are shorter than `least_seconds`."""
  if samples < least_seconds * sample_rate:
    raise AudioError(
      f"{name} is {samples / sample_rate:.2f} s long; at least {least_seconds:.2f} s are needed"
    )


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[soundfile.SoundFile]:
  try:
    content = _fetched(path) if storage.is_url(path) else _plain_file(Path(path))
  except OSError as error:
    raise AudioError(f"cannot read {path}: {error.strerror or error}") from error
  if os.fspath(path).lower().endswith(".raw"):
    raise AudioError(f"{path} is raw audio without a header; convert it to wav first")
  try:
    file = soundfile.SoundFile(content)
  except (soundfile.SoundFileError, TypeError) as error:
    raise AudioError(
      f"{path} is not a supported audio file ({_reason(error)}); "
      f"give {READABLE}, for example with: ffmpeg -i INPUT output.wav"
    ) from error
  with file:
    _check_rate(file.samplerate, str(path))
    _check_whole(file, content, path)
    yield file


def _plain_file(path: Path) -> Path:
  if path.is_dir():
    raise AudioError(f"{path} is a folder; give an audio file")
  if not path.exists():
    raise AudioError(f"{path} does not exist")
  if not path.is_file():
    raise AudioError(f"{path} is not a regular file; save the audio to a file first")
  with open(path, "rb") as probe:
    if not probe.read(1):
      raise AudioError(f"{path} is empty (0 bytes)")
  return path


def _fetched(url: str | os.PathLike[str]) -> io.BytesIO:
  # Read at once, because decoders seek and each request to a bucket is slow.
  try:
    content = storage.read_bytes(url)
  except FileNotFoundError as error:
    raise AudioError(f"{url} does not exist") from error
  if not content:
    raise AudioError(f"{url} is empty (0 bytes)")
  return io.BytesIO(content)


def _mono_blocks(
  file: soundfile.SoundFile, path: object, limit: int | None
) -> Iterator[Float[np.ndarray, " block"]]:
  """Yields `limit` samples in checked blocks; raises if the file is shorter than declared."""
  declared = file.frames if limit is None else min(limit, file.frames)
  done = 0
  while done < declared:
    try:
      block = file.read(min(_BLOCK_FRAMES, declared - done), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
      raise _truncated(path, done, file.frames, file.samplerate) from error
    if not len(block):
      break
    done += len(block)
    yield _checked(block.mean(axis=1, dtype=np.float32), str(path))
  # The declared length of an MP3 is an estimate.
  slack = max(0.1, 0.01 * declared / file.samplerate) if file.format == "MP3" else 0.01
  if declared - done > slack * file.samplerate:
    raise _truncated(path, done, file.frames, file.samplerate)
  if not done:
    raise AudioError(f"{path} holds no samples")


def _resampled(
  blocks: Iterator[Float[np.ndarray, " block"]], from_rate: int, to_rate: int
) -> Iterator[Float[np.ndarray, " block"]]:
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


def _checked(waveform: Float[np.ndarray, "*batch samples"], name: str) -> np.ndarray:
  peak = _peak(waveform)
  if not np.isfinite(peak):
    raise AudioError(f"{name} has NaN or infinite samples; export it from its source again")
  if peak > _LOUDEST:
    raise AudioError(f"{name} has float samples up to {peak:.4g}; scale them to [-1, 1]")
  return np.clip(waveform, -1.0, 1.0) if peak > 1.0 else waveform


def _peak(waveform: np.ndarray) -> float:
  # Unlike abs().max(), this makes no copy of a long waveform; it propagates NaN too.
  return float(np.maximum(waveform.max(), -waveform.min()))


def _check_rate(rate: int, name: str) -> None:
  if not _RATES[0] <= rate <= _RATES[1]:
    raise AudioError(
      f"{name} has a sample rate of {rate} Hz; rates from {_RATES[0]} to {_RATES[1]} Hz are "
      "supported"
    )


def _check_whole(file: soundfile.SoundFile, content: Path | io.BytesIO, path: object) -> None:
  """Raises `AudioError` if the file is shorter than its header declares."""
  # libsndfile corrects such a header silently.
  log = _CORRECTED_SIZE.search(file.extra_info)
  if log:
    declared, present = int(log[1]), int(log[2])
    streamed = declared >= 0x7FFF0000 or declared == 0  # written to a pipe, so the size was unknown
    if not streamed and present < declared:
      frames = round(file.frames * declared / max(1, present))
      if frames - file.frames > 0.01 * file.samplerate:
        raise _truncated(path, file.frames, frames, file.samplerate)
  if file.format == "OGG" and not _has_last_ogg_page(content):
    raise _truncated(path, file.frames, None, file.samplerate)


def _has_last_ogg_page(content: Path | io.BytesIO) -> bool:
  if isinstance(content, io.BytesIO):
    tail = content.getvalue()[-(1 << 17) :]
  else:
    with open(content, "rb") as file:
      file.seek(0, os.SEEK_END)
      file.seek(max(0, file.tell() - (1 << 17)))
      tail = file.read()
  page = tail[max(0, tail.rfind(b"OggS")) :]
  if len(page) < 27 or not page[5] & 4:  # flag 4 marks the last page of a stream
    return False
  segments = page[26]
  return len(page) >= 27 + segments + sum(page[27 : 27 + segments])


def _truncated(path: object, present: int, declared: int | None, rate: int) -> AudioError:
  length = "its end is missing" if declared is None else f"its header gives {declared / rate:.2f} s"
  return AudioError(
    f"{path} is truncated: {length}, and {present / rate:.2f} s can be read; copy it again, "
    "or save the readable part: ffmpeg -i INPUT output.wav"
  )


def _reason(error: Exception) -> str:
  return str(error).rsplit(": ", 1)[-1].strip().rstrip(".") or type(error).__name__


def fit_length(row: Float[np.ndarray, " samples"], length: int) -> Float[np.ndarray, " length"]:
  """Returns `row` cut or padded with zeros to `length` samples."""
  return np.pad(row[:length], (0, max(0, length - len(row))))
