"""Parts of audio files: sections of a file and new bytes that libsndfile reads as one file."""

import bisect
import io
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

if TYPE_CHECKING:
  from _typeshed import WriteableBuffer

_WINDOW = 1 << 20  # bytes per read


class Part(NamedTuple):
  """A stream of a file.

  Attributes:
    pieces: the content that libsndfile reads, in order: new bytes, and sections (start, end) of the
      file in bytes, without the byte at `end`; () for the unchanged file.
    frames: number of samples per channel that the original header states; None if
      libsndfile reads this number from a header, or if it is unknown.
    note: difference between the header and the data, for a warning; "" if there is none.
  """

  pieces: tuple[bytes | tuple[int, int], ...] = ()
  frames: int | None = None
  note: str = ""


AS_IS = [Part()]
NO_LENGTH = "its header does not give its length"
TOO_SHORT = "it has more samples than its header gives"


class PieceFile(io.RawIOBase):
  """A read-only file that consists of new bytes and of sections of another file.

  Args:
    file: the other file.
    pieces: the bytes and sections, see `Part`.
  """

  def __init__(self, file: BinaryIO, pieces: Sequence[bytes | tuple[int, int]]):
    self._file, self._position, self._size = file, 0, 0
    self._pieces: list[bytes | tuple[int, int]] = []
    self._firsts: list[int] = []
    for piece in pieces:
      length = len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]
      if length > 0:
        self._pieces.append(piece)
        self._firsts.append(self._size)
        self._size += length

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
    self._position = max(0, base + offset)
    return self._position

  def readinto(self, buffer: "WriteableBuffer") -> int:
    target, filled = memoryview(buffer).cast("B"), 0
    while filled < len(target) and self._position < self._size:
      index = bisect.bisect_right(self._firsts, self._position) - 1
      piece, skipped = self._pieces[index], self._position - self._firsts[index]
      if isinstance(piece, bytes):
        data = piece[skipped : skipped + len(target) - filled]
      else:
        self._file.seek(piece[0] + skipped)
        data = self._file.read(min(len(target) - filled, piece[1] - piece[0] - skipped))
      if not data:
        break
      target[filled : filled + len(data)] = data
      filled += len(data)
      self._position += len(data)
    return filled


class Reader:
  """Reads short sections of a file through a buffer; fast if positions increase."""

  def __init__(self, file: BinaryIO):
    self._file = file
    self.size = file.seek(0, os.SEEK_END)
    self._first, self._window = 0, b""

  def at(self, position: int, length: int) -> bytes:
    """Returns `length` bytes from `position` on, or fewer at the end of the file."""
    self._show(position, length)
    offset = position - self._first
    return self._window[offset : offset + length]

  def find(self, pattern: re.Pattern[bytes], position: int) -> int:
    """Returns the position of the first match at or after `position`; -1 if there is none.

    Args:
      pattern: pattern whose matches have at most 8 bytes.
      position: where to start the search, in bytes.
    """
    while position < self.size:
      self._show(position, 8)
      found = pattern.search(self._window, position - self._first)
      if found:
        return self._first + found.start()
      position = max(position + 1, self._first + len(self._window) - 7)
    return -1

  def _show(self, position: int, length: int) -> None:
    """Fills the buffer from `position` on, unless it already contains the section."""
    last = self._first + len(self._window)
    if not self._first <= position <= last or last < min(position + length, self.size):
      self._file.seek(position)
      self._first, self._window = position, self._file.read(max(length, _WINDOW))


def joined(parts: list[Part]) -> list[Part]:
  """Returns the parts; if there are several, the note of the first part states their number."""
  if len(parts) == 1:
    return parts
  return [parts[0]._replace(note=f"it is {len(parts)} joined files, read as one"), *parts[1:]]
