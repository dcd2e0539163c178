"""Finds the streams of an audio file, and the end of the data in each stream.

The header of a stream states its length, and libsndfile reads no more than this length. The stated
length may be an estimate (MP3) or unknown (0 or -1, if the writer was stopped). If a file was made
by concatenating files, the stated length covers only the first of them. In these cases, `parts_of`
returns the streams with new headers, so that libsndfile reads to the end of the data.
"""

import itertools
import re
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from audiolm_jax.core.errors import AudioError
from audiolm_jax.io.mpeg import end_of_id3, mpeg_header, mpeg_parts
from audiolm_jax.io.pieces import AS_IS, NO_LENGTH, TOO_SHORT, Part, Reader, joined

_LEFTOVER = 4_096  # fewer bytes after the last chunk of a file are not treated as samples
_TAGS = (b"ID3", b"TAG", b"APETAGEX")  # first bytes of tags that some programs append to any file


def parts_of(file: BinaryIO, name: str, estimate: Callable[[], int]) -> list[Part]:
  """Returns the streams of an audio file in order; `AS_IS` if libsndfile reads the file unchanged.

  Args:
    file: the open file.
    name: name of the file in error messages.
    estimate: function that returns the number of samples that libsndfile would read from the
      unchanged file.

  Raises:
    AudioError: the data are damaged or truncated; see also `mpeg_parts`.
  """
  reader = Reader(file)
  start = end_of_id3(reader, 0)
  magic = reader.at(start, 4)
  if magic == b"OggS":
    return _ogg_parts(reader, start, name)
  if magic == b"fLaC":
    return _flac_parts(reader)
  for container in _CONTAINERS:
    if magic == container.magic and not start:
      return _chunked_parts(reader, container)
  if magic in (b".snd", b"dns.") and not start:
    return _au_parts(reader)
  if mpeg_header(magic) is not None or start:
    return mpeg_parts(reader, start, name, estimate)
  return AS_IS


# FLAC: a marker, and a block with the number of samples in 36 bits.

_FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")


def _flac_parts(reader: Reader) -> list[Part]:
  starts: list[int] = []
  position = reader.find(_FLAC_START, 0)
  while position >= 0:
    starts.append(position)
    position = reader.find(_FLAC_START, position + 1)
  parts: list[Part] = []
  for start, end in itertools.pairwise([*starts, reader.size]):
    field = reader.at(start + 21, 5)
    if len(field) < 5:
      return AS_IS
    frames = int.from_bytes(field, "big") & (1 << 36) - 1
    # If the header states 0 samples, libsndfile reads to the end of the data.
    pieces = ((start, start + 21), bytes([field[0] & 0xF0, 0, 0, 0, 0]), (start + 26, end))
    parts.append(Part(pieces, frames or None, "" if frames else NO_LENGTH))
  return joined(parts) if parts else AS_IS


# Ogg: pages. The header of a page has a checksum, the serial number of its stream, and flags for
# the first and the last page of this stream. A "link" of a concatenated file is a group of streams
# whose first pages follow one another.

_OGG_PAGE = re.compile(b"OggS")
_FIRST_PAGE, _LAST_PAGE = 2, 4
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_parts(reader: Reader, start: int, name: str) -> list[Part]:
  # For each link: its start, and by serial number the position and length of the last page.
  links: list[tuple[int, dict[int, tuple[int, int]]]] = []
  position, began = start, False
  granules: dict[int, int] = {}
  ended: set[int] = set()
  while position < reader.size:
    head = reader.at(position, 27)
    if head[:4] != b"OggS":
      if reader.find(_OGG_PAGE, position) < 0:
        break  # tags or padding after the last page
      raise _damaged(name, position)
    segments = reader.at(position + 27, head[26]) if len(head) == 27 else b""
    length = 27 + len(segments) + sum(segments)
    page = reader.at(position, length)
    if len(head) < 27 or len(segments) < head[26] or len(page) < length:
      raise AudioError(
        f"{name} is truncated: its last page is incomplete, only what is before it can be read; "
        "copy it again, or save the readable part: ffmpeg -i INPUT output.wav"
      )
    if page[22:26] not in (ogg_checksum(page), ogg_checksum(_ended(page))):
      raise _damaged(name, position)
    flags, serial = page[5], int.from_bytes(page[14:18], "little")
    granule = int.from_bytes(page[6:14], "little", signed=True)
    if flags & _FIRST_PAGE:
      if not began:
        links.append((position, {}))
        granules, ended = {}, set()
      granules[serial] = 0
    elif serial in ended or 0 <= granule < granules.get(serial, 0):
      raise _damaged(name, position)
    began = bool(flags & _FIRST_PAGE)
    if granule >= 0:
      granules[serial] = granule
    if flags & _LAST_PAGE:
      ended.add(serial)
    if not links:
      raise _damaged(name, position)
    links[-1][1][serial] = (position, length)
    position += length
  parts: list[Part] = []
  ends = [first for first, _ in links[1:]] + [position]
  for (first, last_pages), end in zip(links, ends, strict=True):
    pieces: list[bytes | tuple[int, int]] = []
    at = first
    for page_at, length in sorted(last_pages.values()):
      page = reader.at(page_at, length)
      if not page[5] & _LAST_PAGE:
        page = _ended(page)
        pieces += [(at, page_at), page[:22] + ogg_checksum(page) + page[26:]]
        at = page_at + length
    note = "it has no end flag" if pieces else ""
    parts.append(Part((*pieces, (at, end)), None, note))
  if len(parts) == 1 and not parts[0].note:
    return AS_IS
  return joined(parts)


def ogg_checksum(page: bytes) -> bytes:
  """Returns the checksum (CRC) of an Ogg page, in which the stored checksum counts as 0.

  The checksum is `zlib.crc32` without the inversions of the initial and the final value. The bits
  of each input byte and the bits of the result are in reverse order.
  """
  content = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED)
  crc = zlib.crc32(content, 0xFFFFFFFF) ^ 0xFFFFFFFF
  return crc.to_bytes(4, "little").translate(_REVERSED)[::-1]


def _ended(page: bytes) -> bytes:
  """Returns a copy of an Ogg page that is marked as the last page of its stream."""
  return page[:5] + bytes([page[5] | _LAST_PAGE]) + page[6:]


# WAV, AIFF, W64 and CAF: chunks with a name and a size; one chunk contains the samples.


class _Container(NamedTuple):
  """The layout of a file format that consists of chunks.

  Attributes:
    magic: the first four bytes of the file.
    first: position of the first chunk in bytes.
    name_bytes: length of chunk names in bytes.
    size: `struct` format of a chunk's size field.
    counts_header: whether the size of a chunk includes its name and its size field.
    align: alignment of chunks in bytes.
    data: first bytes of the chunk name for samples.
    unknown: size for which libsndfile reads to the end of the file; None if there is no such size.
  """

  magic: bytes
  first: int
  name_bytes: int
  size: str
  counts_header: bool
  align: int
  data: bytes
  unknown: int | None


_CONTAINERS = (
  _Container(b"RIFF", 12, 4, "<I", False, 2, b"data", 0xFFFFFFFF),
  _Container(b"FORM", 12, 4, ">I", False, 2, b"SSND", None),
  _Container(b"riff", 40, 16, "<Q", True, 8, b"data", None),
  _Container(b"caff", 8, 4, ">q", False, 1, b"data", None),
)
# By length of the size field in bytes: sizes from this value on mean that the file was written to a
# pipe, so that its length was unknown.
_STREAMED = {4: 0x7FFF0000, 8: 1 << 62}


def _chunked_parts(reader: Reader, form: _Container) -> list[Part]:
  parts: list[Part] = []
  start: int | None = 0
  while start is not None:
    part, start = _chunked_part(reader, form, start)
    parts.append(part)
  if len(parts) == 1 and len(parts[0].pieces) == 1:
    return [parts[0]._replace(pieces=())]
  return joined(parts)


def _chunked_part(reader: Reader, form: _Container, start: int) -> tuple[Part, int | None]:
  """Returns the stream at `start`, and the position of the next stream; None if there is none."""
  unchanged = Part(((start, reader.size),))
  position, header = start + form.first, form.name_bytes + struct.calcsize(form.size)
  data: tuple[int, int] | None = None  # start and stated size of the samples
  end = 0  # end of the chunk of samples
  while position < reader.size:
    chunk = reader.at(position, header)
    if data is not None and chunk[:4] == form.magic:
      return Part(((start, position),)), position
    if len(chunk) < header or not all(32 <= byte < 127 for byte in chunk[:4]):
      break
    (size,) = struct.unpack(form.size, chunk[form.name_bytes :])
    if form.counts_header:
      size -= header
    body = position + header
    if data is None and chunk.startswith(form.data):
      data = body, size
      if size >= _STREAMED[struct.calcsize(form.size)]:
        return unchanged._replace(note=NO_LENGTH), None
    if size < 0 or (body + size > reader.size and data is not None and data[1] <= 0):
      break
    if body + size > reader.size:
      return unchanged, None  # truncated; `audio_file` raises the error
    position = body + size + -(body + size - start) % form.align
    end = end or (position if data is not None else 0)
  if data is None or (end and position != end) or _is_leftover(reader, position):
    return unchanged, None
  # The following bytes are samples and not a chunk, because the writer was stopped.
  size = form.unknown or reader.size - data[0] + (header if form.counts_header else 0)
  patched = data[0] - struct.calcsize(form.size)
  pieces = ((start, patched), struct.pack(form.size, size), (data[0], reader.size))
  return Part(pieces, None, NO_LENGTH if data[1] <= 0 else TOO_SHORT), None


def _is_leftover(reader: Reader, position: int) -> bool:
  """Returns whether a tag starts at `position`, or fewer than 4096 bytes remain."""
  rest = reader.at(position, _LEFTOVER)
  return len(rest) < _LEFTOVER or rest.startswith(_TAGS)


# AU: a header with the position and the size of the samples.


def _au_parts(reader: Reader) -> list[Part]:
  parts: list[Part] = []
  start = 0
  while True:
    head = reader.at(start, 12)
    order = ">" if head[:4] == b".snd" else "<"
    offset, size = struct.unpack(f"{order}II", head[4:].ljust(8, b"\0"))
    if offset < len(head):
      return AS_IS  # not an AU file
    data, note = start + offset, ""
    end = data + size
    if size == 0xFFFFFFFF or (size == 0 and not _is_leftover(reader, data)):
      end, note = reader.size, NO_LENGTH
    elif end < reader.size and reader.at(end, 4) != head[:4] and not _is_leftover(reader, end):
      end, note = reader.size, TOO_SHORT
    unknown = struct.pack(f"{order}I", 0xFFFFFFFF)
    pieces = ((start, start + 8), unknown, (start + 12, end)) if note else ((start, end),)
    parts.append(Part(pieces, None, note))
    if note or end >= reader.size or reader.at(end, 4) != head[:4]:
      break
    start = end
  if len(parts) == 1 and not parts[0].note:
    return AS_IS
  return joined(parts)


def _damaged(name: str, position: int) -> AudioError:
  return AudioError(
    f"{name} is damaged at byte {position}; copy it again, or save the readable part: "
    "ffmpeg -i INPUT output.wav"
  )
