"""Encodes an audio file while its samples are computed, in bounded memory."""

import io
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile  # pyright: ignore[reportMissingTypeStubs]: its types are in the module
from jaxtyping import Float

from audiolm_jax.core.errors import AudioError
from audiolm_jax.io import audio

if TYPE_CHECKING:
  from _typeshed import ReadableBuffer

PCM = "pcm"  # samples without a header
FORMATS = ("wav", "flac", "mp3", PCM)
# The bit rate is constant. For a variable bit rate, players read the duration from the first frame,
# which an encoder can complete only at the end.
_MP3: Mapping[str, Any] = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
_NOTHING: Mapping[str, Any] = {}
# The lower 36 bits of these bytes of a FLAC file are the number of samples.
_FLAC_LENGTH = slice(21, 26)


def content(
  blocks: Iterator[Float[np.ndarray, "_"]],
  form: str,
  *,
  sample_rate: int,
  samples: int,
  tags: Mapping[str, str],
) -> Generator[bytes]:
  """Yields the content of a one-channel audio file in pieces, which are never empty.

  A WAV file equals the file that `audio.write_audio` writes. FLAC and MP3 files lack header fields
  that can only be written at the end, such as the FLAC checksum and the MP3 encoder delay.
  Because players cannot remove this delay, an MP3 file begins with about 0.1 s of silence.

  Args:
    blocks: blocks of samples; values outside [-1, 1] are clipped.
    form: format of the file, one of `FORMATS`.
    sample_rate: Hz.
    samples: total number of samples in all blocks.
    tags: metadata, see `audio.write_audio`; not used for PCM.

  Raises:
    AudioError: the number of samples in all blocks is not `samples`.
  """
  if form == "wav":
    yield _wav_header(sample_rate, samples, tags)
  sink = _Sink()
  with _opened(sink, PCM if form == "wav" else form, sample_rate, tags) as file:
    is_first = True
    for block in _counted(blocks, samples):
      file.write(np.clip(block, -1.0, 1.0))
      if not (piece := sink.take()):
        continue
      if is_first and form == "flac":
        bits = int.from_bytes(piece[_FLAC_LENGTH]) | samples
        piece[_FLAC_LENGTH] = bits.to_bytes(5)
      is_first = False
      yield bytes(piece)
  if piece := sink.take():
    yield bytes(piece)


def _counted(blocks: Iterator[np.ndarray], samples: int) -> Iterator[np.ndarray]:
  """Yields the blocks; raises `AudioError` at the end if they do not have `samples` samples."""
  found = 0
  for block in blocks:
    found += len(block)
    yield block
  if found != samples:
    raise AudioError(f"the audio has {found} samples, and {samples} were announced")


def _wav_header(sample_rate: int, samples: int, tags: Mapping[str, str]) -> bytes:
  """Returns the header of a WAV file, that is, all bytes before the samples."""
  empty = io.BytesIO()
  _opened(empty, "wav", sample_rate, tags).close()
  header = bytearray(empty.getvalue())
  size = 2 * samples
  header[4:8] = (len(header) - 8 + size).to_bytes(4, "little")
  header[-4:] = size.to_bytes(4, "little")
  return bytes(header)


def _opened(
  target: Any, form: str, sample_rate: int, tags: Mapping[str, str]
) -> soundfile.SoundFile:
  """Opens an audio file for writing, and sets its tags unless the format is PCM."""
  if form == PCM:
    return soundfile.SoundFile(target, "w", sample_rate, 1, "PCM_16", format="RAW", endian="LITTLE")
  container, subtype = audio.check_output_format(f"audio.{form}")
  settings = _MP3 if form == "mp3" else _NOTHING
  file = soundfile.SoundFile(target, "w", sample_rate, 1, subtype, format=container, **settings)
  for name, text in tags.items():
    setattr(file, name, text)
  return file


class _Sink(io.RawIOBase):
  """The output file of an encoder; keeps appended data and drops later changes of these data."""

  def __init__(self):
    self._new = bytearray()
    self._position: int = 0
    self._size: int = 0

  def take(self) -> bytearray:
    """Returns the bytes that were appended since the last call."""
    new, self._new = self._new, bytearray()
    return new

  def write(self, data: "ReadableBuffer", /) -> int:
    """Appends data, or drops data that would replace older data; returns the number of bytes."""
    data = memoryview(data)
    if self._position == self._size:
      self._new += data
      self._size += len(data)
    self._position += len(data)
    return len(data)

  def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
    """Changes the position of the next write, and returns this position."""
    start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
    self._position = start + offset
    return self._position
