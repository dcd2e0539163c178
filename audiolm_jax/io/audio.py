"""Reads and writes audio files; no other module does."""

import contextlib
import io
import logging
import os
import re
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Num

from audiolm_jax.core.errors import AudioError
from audiolm_jax.core.sliced import SlicedBlocks
from audiolm_jax.io import containers, storage
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
_BLOCK_SAMPLES = 1 << 22  # of all channels, which a file can have a thousand of
_SALVAGED_FRAMES = 256  # read at once where the data end
_UNKNOWN_FRAMES = 1 << 62  # libsndfile gives more if it does not know the length
_QUALITY = "HQ"
_logger = logging.getLogger(__name__)
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
    limit = None if seconds is None else max(1, round(seconds * file.sample_rate))
    waveform = np.concatenate([np.zeros(0, np.float32), *file.blocks(limit)])
    return waveform, file.sample_rate


def read_blocks(
  path: str | os.PathLike[str], *, sample_rate: int, block_samples: int
) -> Generator[Float[np.ndarray, " block"], None, None]:
  """Yields an audio file at `sample_rate` in blocks of `block_samples`, in bounded memory.

  Concatenated, the blocks equal `resample` of `read_audio`. Only the last block may be shorter.

  Raises:
    AudioError: see `read_audio`; an error late in a file is raised when its block is read.
  """
  with _opened(path) as file:
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
  """Reads an audio file as one channel at `sample_rate`, with memory for the result only.

  Args:
    path: the file.
    sample_rate: of the result, in Hz.
    seconds: read at most this much from the beginning; None for the whole file.
  Raises:
    AudioError: see `read_audio`.
  """
  with _opened(path) as file:
    limit = None if seconds is None else max(1, round(seconds * file.sample_rate))
    waveform, filled = np.empty(0, np.float32), 0
    for piece in resampled_blocks(file.blocks(limit), file.sample_rate, sample_rate):
      if filled + len(piece) > len(waveform):
        # Doubling makes no copy of a long waveform, and pages that are not used take no memory.
        waveform.resize(max(2 * len(waveform), filled + len(piece)), refcheck=False)
      waveform[filled : filled + len(piece)] = piece
      filled += len(piece)
    waveform.resize(filled, refcheck=False)
  return waveform


class SlicedAudio(SlicedBlocks):
  """An audio file of any length as one channel that is read in slices, in bounded memory.

  It replaces the array of `load_audio` where slices are taken in rising order, which may overlap.
  The file is read once before, for its length, and once for each series of slices.

  Args:
    path: the file.
    sample_rate: of the slices, in Hz.

  Attributes:
    peak: largest absolute sample of the file.
    resampled_peak: largest absolute sample of the slices up to now.

  Raises:
    AudioError: see `read_audio`.
  """

  def __init__(self, path: str | os.PathLike[str], sample_rate: int):
    self._path, self._rate = path, sample_rate
    samples, self.peak, self.resampled_peak = 0, 0.0, 0.0
    with _opened(path) as file:
      for block in file.blocks(None):
        samples += len(block)
        self.peak = max(self.peak, _peak(block))
      super().__init__(self._read, (resampled_length(samples, file.sample_rate, sample_rate),))

  def _read(self) -> Iterator[Float[np.ndarray, " block"]]:
    with _opened(self._path) as file:
      blocks = file.blocks(None, warn=False)
      for piece in resampled_blocks(blocks, file.sample_rate, self._rate):
        if len(piece):
          self.resampled_peak = max(self.resampled_peak, _peak(piece))
          yield piece
    raise AudioError(f"{self._path} changed while it was read; run the command again")


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


def resampled_blocks(
  blocks: Iterator[Float[np.ndarray, " block"]], from_rate: int, to_rate: int
) -> Iterator[Float[np.ndarray, " block"]]:
  """Yields a waveform at another sample rate, as many samples as `resample` returns, in blocks."""
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


def read_tags(path: str | os.PathLike[str]) -> list[dict[str, str]]:
  """Returns the metadata of each stream of a file, with the names that `write_audio` takes.

  A file has several streams if files were joined.
  """
  with _opened(path) as file:
    return file.tags()


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
    check_peak(_peak(row), name)


def check_peak(peak: float, name: str) -> None:
  """Raises `AudioError` if `peak`, the largest absolute sample, is that of silence."""
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


class _AudioFile:
  """An open audio file: one or several joined streams that libsndfile can read.

  Args:
    path: the file.
    content: what libsndfile opens for the file as it is.
    file: the content, for parts of the file.
    parts: see `containers.parts_of`.
  """

  def __init__(
    self, path: Any, content: bytes | io.BytesIO, file: BinaryIO, parts: list[containers.Part]
  ):
    self._path, self._content, self._file, self._parts = os.fspath(path), content, file, parts
    self._note = parts[0].note
    with self._sound(parts[0]) as sound:
      self.sample_rate = sound.samplerate
      _check_rate(self.sample_rate, self._path)
      if not parts[0].pieces:
        _check_whole(sound, path)

  def tags(self) -> list[dict[str, str]]:
    """Returns the metadata of each stream."""
    found = []
    for part in self._parts:
      with self._sound(part) as sound:
        found.append(sound.copy_metadata())
    return found

  def blocks(self, limit: int | None, warn: bool = True) -> Iterator[Float[np.ndarray, " block"]]:
    """Yields `limit` samples of one channel in checked blocks.

    Args:
      limit: the number of samples; None for all.
      warn: whether to log that the header is wrong, if it is.

    Raises:
      AudioError: the file is shorter than stated, or damaged.
    """
    done = 0
    for part in self._parts:
      with self._sound(part) as sound:
        if sound.samplerate != self.sample_rate:
          raise AudioError(
            f"{self._path} changes from {self.sample_rate} to {sound.samplerate} Hz after "
            f"{done / self.sample_rate:.2f} s; split it, or convert it: ffmpeg -i INPUT output.wav"
          )
        left = None if limit is None else limit - done
        read = self._whole if part.pieces else self._as_is
        for block in read(sound, part, left):
          done += len(block)
          with np.errstate(over="ignore", invalid="ignore"):  # `_checked` refuses the result
            mono = block.mean(axis=1, dtype=np.float32)
          yield _checked(mono, self._path)
      if done == limit:
        break
    if not done:
      raise AudioError(f"{self._path} holds no samples")
    if warn and self._note and done != limit:
      _logger.warning("%s: %s; %.2f s are read", self._path, self._note, done / self.sample_rate)

  def _as_is(
    self, sound: soundfile.SoundFile, part: containers.Part, limit: int | None
  ) -> Iterator[np.ndarray]:
    """Yields the samples that the file states."""
    del part
    stated = sound.frames if limit is None else min(limit, sound.frames)
    done = 0
    for block in self._blocks(sound, stated, sound.frames):
      done += len(block)
      yield block
    # The stated length of an MP3 is an estimate.
    slack = max(0.1, 0.01 * stated / sound.samplerate) if sound.format == "MP3" else 0.01
    if stated - done > slack * sound.samplerate:
      raise _truncated(self._path, done, sound.frames, sound.samplerate)

  def _whole(
    self, sound: soundfile.SoundFile, part: containers.Part, limit: int | None
  ) -> Iterator[np.ndarray]:
    """Yields all samples of a part, also those after the stated end."""
    stated = part.frames or (sound.frames if sound.frames < _UNKNOWN_FRAMES else None)
    if stated is None:
      yield from self._to_the_end(sound, part, 0, limit)
      return
    # No read crosses the stated end, because libsndfile fails at bytes after a FLAC stream.
    done, wanted = 0, stated if limit is None else min(stated, limit)
    for block in self._blocks(sound, wanted, stated):
      done += len(block)
      yield block
    if wanted - done > (0.1 if sound.format == "MP3" else 0.01) * sound.samplerate:
      raise _truncated(self._path, done, stated, sound.samplerate)
    if limit is not None:
      return
    try:
      more = sound.read(1, dtype="float32", always_2d=True)
    except soundfile.SoundFileError:  # tags
      return
    if len(more):
      self._note = self._note or containers.TOO_SHORT
      yield more
      yield from self._to_the_end(sound, part, done + 1, None)

  def _to_the_end(
    self, sound: soundfile.SoundFile, part: containers.Part, done: int, limit: int | None
  ) -> Iterator[np.ndarray]:
    """Yields the samples from `done` on of a part of unknown length."""
    try:
      for block in self._blocks(sound, limit, None):
        done += len(block)
        yield block
    except AudioError:
      if self._source.tell() < self._source.seek(0, os.SEEK_END):
        raise
      yield from self._last_samples(part, done)

  def _last_samples(self, part: containers.Part, done: int) -> Iterator[np.ndarray]:
    """Yields the samples from `done` on of a stream whose last frame is incomplete."""
    with self._sound(part) as sound, contextlib.suppress(soundfile.SoundFileError):
      while done:
        done -= len(sound.read(min(done, _BLOCK_FRAMES), dtype="float32", always_2d=True))
      while len(block := sound.read(_SALVAGED_FRAMES, dtype="float32", always_2d=True)):
        yield block

  def _blocks(
    self, sound: soundfile.SoundFile, limit: int | None, stated: int | None
  ) -> Iterator[np.ndarray]:
    """Yields blocks until the end of the data or the limit."""
    done, size = 0, max(1, min(_BLOCK_FRAMES, _BLOCK_SAMPLES // sound.channels))
    while limit is None or done < limit:
      wanted = size if limit is None else min(size, limit - done)
      try:
        block = sound.read(wanted, dtype="float32", always_2d=True)
      except soundfile.SoundFileError as error:
        raise _truncated(self._path, done, stated, sound.samplerate) from error
      if not len(block):
        break
      done += len(block)
      yield block

  def _sound(self, part: containers.Part) -> soundfile.SoundFile:
    try:
      if not part.pieces:
        return _opened_as_is(self._content)
      self._source = containers.PieceFile(self._file, part.pieces)
      return _Sequential(cast(BinaryIO, self._source))
    except (soundfile.SoundFileError, TypeError) as error:
      raise AudioError(
        f"{self._path} is not a supported audio file ({_reason(error)}); "
        f"give {READABLE}, for example with: ffmpeg -i INPUT output.wav"
      ) from error


class _Sequential(soundfile.SoundFile):
  """A file in which soundfile does not seek, which fails if the length is unknown."""

  def seekable(self) -> bool:
    return False


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[_AudioFile]:
  if os.fspath(path).lower().endswith(".raw"):
    raise AudioError(f"{path} is raw audio without a header; convert it to wav first")
  try:
    content = _fetched(path) if storage.is_url(path) else _plain_file(Path(path))
    with contextlib.ExitStack() as stack:
      if isinstance(content, Path):
        # As bytes, because soundfile cannot encode a name that is not text.
        file, given = stack.enter_context(open(content, "rb")), os.fsencode(content)
      else:
        file, given = content, content
      parts = containers.parts_of(file, os.fspath(path), lambda: _stated_frames(given))
      yield _AudioFile(path, given, file, parts)
  except OSError as error:
    raise AudioError(f"cannot read {path}: {error.strerror or error}") from error


def _opened_as_is(content: bytes | io.BytesIO) -> soundfile.SoundFile:
  if isinstance(content, io.BytesIO):
    content.seek(0)
  return soundfile.SoundFile(cast(Any, content))  # its annotations lack names in bytes


def _stated_frames(content: bytes | io.BytesIO) -> int:
  """Returns the number of samples that libsndfile states; -1 if it cannot open the file."""
  try:
    with _opened_as_is(content) as sound:
      return sound.frames
  except soundfile.SoundFileError:
    return -1


def _plain_file(path: Path) -> Path:
  if path.is_dir():
    raise AudioError(f"{path} is a folder; give an audio file")
  if not path.exists():
    stream = "- is standard input, which is not read; give the name of a file"
    raise AudioError(stream if str(path) == "-" else f"{path} does not exist")
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


def _checked(waveform: Float[np.ndarray, "*batch samples"], name: str) -> np.ndarray:
  peak = _peak(waveform)
  if not np.isfinite(peak):
    raise AudioError(f"{name} has NaN or infinite samples; export it from its source again")
  if peak > _LOUDEST:
    raise AudioError(f"{name} has float samples up to {peak:.4g}; scale them to [-1, 1]")
  return np.clip(waveform, -1.0, 1.0) if peak > 1.0 else waveform


def _peak(waveform: np.ndarray) -> float:
  # Unlike abs().max(), this makes no copy of a long waveform; it propagates NaN too.
  return abs(float(np.maximum(waveform.max(), -waveform.min())))  # never -0.0


def _check_rate(rate: int, name: str) -> None:
  if not _RATES[0] <= rate <= _RATES[1]:
    raise AudioError(
      f"{name} has a sample rate of {rate} Hz; rates from {_RATES[0]} to {_RATES[1]} Hz are "
      "supported"
    )


def _check_whole(file: soundfile.SoundFile, path: object) -> None:
  """Raises `AudioError` if the file is shorter than its header states."""
  # libsndfile corrects such a header silently.
  log = _CORRECTED_SIZE.search(file.extra_info)
  if log:
    declared, present = int(log[1]), int(log[2])
    streamed = declared >= 0x7FFF0000 or declared == 0  # written to a pipe, so the size was unknown
    if not streamed and present < declared:
      frames = round(file.frames * declared / max(1, present))
      if frames - file.frames > 0.01 * file.samplerate:
        raise _truncated(path, file.frames, frames, file.samplerate)


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
