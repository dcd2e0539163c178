"""Opens audio files, and reads and checks their samples in blocks."""

import contextlib
import io
import logging
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import soundfile  # pyright: ignore[reportMissingTypeStubs]: its types are in the module
from jaxtyping import Float

from audiolm_jax.core.errors import AudioError
from audiolm_jax.io import containers, pieces, storage

READABLE = "wav, flac, ogg, opus, mp3, aiff, au, w64 or caf"
_RATES = (1_000, 768_000)
_LOUDEST = 10.0  # a higher peak means that float samples are not scaled to [-1, 1]
_BLOCK_FRAMES = 1 << 18
_BLOCK_SAMPLES = 1 << 22  # limit for all channels together; a file can have a thousand channels
_SALVAGED_FRAMES = 256  # frames per read close to the end of incomplete data
_UNKNOWN_FRAMES = 1 << 62  # libsndfile returns a larger number if the length is unknown
_logger = logging.getLogger(__name__)
# libsndfile logs this text if the size in a header differs from the size of the file.
_CORRECTED_SIZE = re.compile(
  r"^\s*(?:data|SSND|riff|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)


class AudioFile:
  """An open audio file of one stream or of several concatenated streams.

  Args:
    path: path of the file, for messages.
    content: the path as bytes, or the content of the file; used to open the whole file unchanged.
    file: the open file, from which the sections of `parts` are read.
    parts: the streams of the file, from `containers.parts_of`.

  Attributes:
    sample_rate: sample rate of the first stream in Hz.

  Raises:
    AudioError: libsndfile cannot open the file, the sample rate is not supported, or the file is
      truncated.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    content: bytes | io.BytesIO,
    file: BinaryIO,
    parts: list[pieces.Part],
  ):
    self._path, self._content, self._file, self._parts = os.fspath(path), content, file, parts
    self._note = parts[0].note
    with self._sound(parts[0]) as sound:
      self.sample_rate = sound.samplerate
      check_rate(self.sample_rate, self._path)
      if not parts[0].pieces:
        _check_whole(sound, path)

  def tags(self) -> list[dict[str, str]]:
    """Returns the metadata of each stream by tag name."""
    found: list[dict[str, str]] = []
    for part in self._parts:
      with self._sound(part) as sound:
        found.append(sound.copy_metadata())
    return found

  def blocks(self, limit: int | None, warn: bool = True) -> Iterator[Float[np.ndarray, "_block"]]:
    """Yields the samples, averaged over channels and checked by `checked`, in blocks.

    Args:
      limit: maximum number of samples; None for all samples.
      warn: whether to log a warning if the header is wrong.

    Raises:
      AudioError: the file is shorter than its header states, is damaged or has no samples;
        `checked` refuses a sample; or the streams have different sample rates.
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
          with np.errstate(over="ignore", invalid="ignore"):  # `checked` rejects inf and NaN
            mono = block.mean(axis=1, dtype=np.float32)
          yield checked(mono, self._path)
      if done == limit:
        break
    if not done:
      raise AudioError(f"{self._path} holds no samples")
    if warn and self._note and done != limit:
      _logger.warning("%s: %s; %.2f s are read", self._path, self._note, done / self.sample_rate)

  def _as_is(
    self, sound: soundfile.SoundFile, part: pieces.Part, limit: int | None
  ) -> Iterator[np.ndarray]:
    """Yields the samples of a file up to `limit` or up to the length that its header states."""
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
    self, sound: soundfile.SoundFile, part: pieces.Part, limit: int | None
  ) -> Iterator[np.ndarray]:
    """Yields the samples of a part up to `limit` or up to the length that its header states.

    If `limit` is None, also yields any samples after this length.
    """
    stated = part.frames or (sound.frames if sound.frames < _UNKNOWN_FRAMES else None)
    if stated is None:
      yield from self._to_the_end(sound, part, 0, limit)
      return
    # No read crosses the stated end, because libsndfile fails if bytes follow a FLAC stream.
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
    except soundfile.SoundFileError:  # tags follow, not samples
      return
    if len(more):
      self._note = self._note or pieces.TOO_SHORT
      yield more
      yield from self._to_the_end(sound, part, done + 1, None)

  def _to_the_end(
    self, sound: soundfile.SoundFile, part: pieces.Part, done: int, limit: int | None
  ) -> Iterator[np.ndarray]:
    """Yields the samples of a part with unknown length from `done` on, at most `limit` samples."""
    try:
      for block in self._blocks(sound, limit, None):
        done += len(block)
        yield block
    except AudioError:
      if self._source.tell() < self._source.seek(0, os.SEEK_END):
        raise
      yield from self._last_samples(part, done)

  def _last_samples(self, part: pieces.Part, done: int) -> Iterator[np.ndarray]:
    """Yields a part's samples from `done` to the end of the last complete frame."""
    with self._sound(part) as sound, contextlib.suppress(soundfile.SoundFileError):
      while done:
        done -= len(sound.read(min(done, _BLOCK_FRAMES), dtype="float32", always_2d=True))
      while len(block := sound.read(_SALVAGED_FRAMES, dtype="float32", always_2d=True)):
        yield block

  def _blocks(
    self, sound: soundfile.SoundFile, limit: int | None, stated: int | None
  ) -> Iterator[np.ndarray]:
    """Yields blocks [samples, channels] until the end of the data or `limit` samples.

    Raises:
      AudioError: the data cannot be decoded; the message contains `stated`, the length
        that the header states.
    """
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

  def _sound(self, part: pieces.Part) -> soundfile.SoundFile:
    try:
      if not part.pieces:
        return _opened_as_is(self._content)
      self._source = pieces.PieceFile(self._file, part.pieces)
      return _Sequential(cast(BinaryIO, self._source))
    except (soundfile.SoundFileError, TypeError) as error:
      raise AudioError(
        f"{self._path} is not a supported audio file ({_reason(error)}); "
        f"give {READABLE}, for example with: ffmpeg -i INPUT output.wav"
      ) from error


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Generator[AudioFile]:
  """Opens an audio file.

  Raises:
    AudioError: the file is missing, not audio, truncated, damaged or empty, or its sample rate is
      not supported.
    UserError: the store of a URL cannot be reached.
  """
  if os.fspath(path).lower().endswith(".raw"):
    raise AudioError(f"{path} is raw audio without a header; convert it to wav first")
  try:
    content = _fetched(path) if storage.is_url(path) else _plain_file(Path(path))
    with contextlib.ExitStack() as stack:
      if isinstance(content, Path):
        # The path is bytes, because soundfile cannot encode a name that is not valid text.
        file, given = stack.enter_context(open(content, "rb")), os.fsencode(content)
      else:
        file, given = content, content
      parts = containers.parts_of(file, os.fspath(path), lambda: _stated_frames(given))
      yield AudioFile(path, given, file, parts)
  except OSError as error:
    raise AudioError(f"cannot read {path}: {error.strerror or error}") from error


def checked(waveform: Float[np.ndarray, "*batch samples"], name: str) -> np.ndarray:
  """Returns the samples clipped to [-1, 1].

  Args:
    waveform: the samples.
    name: name of the waveform in error messages.

  Raises:
    AudioError: a sample is NaN or infinite, or its absolute value is above 10.
  """
  peak = peak_of(waveform)
  if not np.isfinite(peak):
    raise AudioError(f"{name} has NaN or infinite samples; export it from its source again")
  if peak > _LOUDEST:
    raise AudioError(f"{name} has float samples up to {peak:.4g}; scale them to [-1, 1]")
  return np.clip(waveform, -1.0, 1.0) if peak > 1.0 else waveform


def peak_of(waveform: np.ndarray) -> float:
  """Returns the largest absolute sample; NaN if a sample is NaN."""
  # Unlike abs().max(), this does not copy a long waveform. Both return NaN if a sample is NaN.
  return abs(float(np.maximum(waveform.max(), -waveform.min())))  # never -0.0


class _Sequential(soundfile.SoundFile):
  """A file in which soundfile does not seek, because seeking fails if the length is unknown."""

  def seekable(self) -> bool:
    return False


def _opened_as_is(content: bytes | io.BytesIO) -> soundfile.SoundFile:
  if isinstance(content, io.BytesIO):
    content.seek(0)
  return soundfile.SoundFile(cast(BinaryIO, content))  # its annotations do not allow bytes


def _stated_frames(content: bytes | io.BytesIO) -> int:
  """Returns the number of samples per channel that libsndfile reports; -1 if opening fails."""
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
  # The whole file is read at once, because decoders seek and each request to a bucket is slow.
  try:
    content = storage.read_bytes(url)
  except FileNotFoundError as error:
    raise AudioError(f"{url} does not exist") from error
  if not content:
    raise AudioError(f"{url} is empty (0 bytes)")
  return io.BytesIO(content)


def check_rate(rate: int, name: str) -> None:
  """Raises `AudioError` if a sample rate is below 1 kHz or above 768 kHz."""
  if not _RATES[0] <= rate <= _RATES[1]:
    raise AudioError(
      f"{name} has a sample rate of {rate} Hz; rates from {_RATES[0]} to {_RATES[1]} Hz are "
      "supported"
    )


def _check_whole(file: soundfile.SoundFile, path: object) -> None:
  """Raises `AudioError` if the file is over 0.01 s shorter than its header states."""
  # libsndfile corrects such a header without an error; only its log in `extra_info` has the sizes.
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
