"""Finds the streams of a sound file, and how much sound each of them really has.

A header gives the length of a stream, but the length may be an estimate (MP3), unknown (0 or -1, if
the writer was stopped), or that of the first of several joined files. libsndfile reads as much as
the header gives. `parts_of` therefore returns the streams with headers that libsndfile reads to the
end of the data.
"""

import bisect
import dataclasses
import io
import itertools
import os
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple

from audiolm_jax.core.errors import AudioError

_WINDOW = 1 << 20  # bytes read at once
_LEFTOVER = 4_096  # fewer bytes after the last chunk of a file are not taken for samples
_TAGS = (b"ID3", b"TAG", b"APETAGEX")  # which some programs append to any file


class Part(NamedTuple):
  """A stream of a file.

  Attributes:
    pieces: what libsndfile reads: bytes, and (first, last) positions in the file; () for the file
      as it is.
    frames: number of samples per channel that the header states, if libsndfile cannot read it from
      `pieces`.
    note: how the header differs from the data, for a warning; "" if it does not.
  """

  pieces: tuple[bytes | tuple[int, int], ...] = ()
  frames: int | None = None
  note: str = ""


AS_IS = [Part()]
NO_LENGTH = "its header does not give its length"
TOO_SHORT = "it has more samples than its header gives"


class PieceFile(io.RawIOBase):
  """A file made of bytes and of sections of another file.

  Args:
    file: the other file.
    pieces: see `Part`.
  """

  def __init__(self, file: BinaryIO, pieces: Sequence[bytes | tuple[int, int]]):
    self._file, self._position, self._size = file, 0, 0
    self._pieces, self._firsts = [], []
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

  def readinto(self, buffer: Any) -> int:
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


def parts_of(file: BinaryIO, name: str, estimate: Callable[[], int]) -> list[Part]:
  """Returns the streams of a sound file, in order.

  Args:
    file: the content.
    name: of the file, for messages.
    estimate: returns the number of samples that libsndfile would read of the file as it is.

  Raises:
    AudioError: the data are damaged or cut off.
  """
  reader = _Reader(file)
  start = _end_of_id3(reader, 0)
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
  if _mpeg_header(magic) is not None or start:
    return _mpeg_parts(reader, start, name, estimate)
  return AS_IS


class _Reader:
  """Reads short sections of a file in rising order fast."""

  def __init__(self, file: BinaryIO):
    self._file = file
    self.size = file.seek(0, os.SEEK_END)
    self._first, self._window = 0, b""

  def at(self, position: int, length: int) -> bytes:
    """Returns up to `length` bytes."""
    self._show(position, length)
    offset = position - self._first
    return self._window[offset : offset + length]

  def find(self, pattern: re.Pattern[bytes], position: int) -> int:
    """Returns the first position of a pattern of at most 8 bytes from `position` on, or -1."""
    while position < self.size:
      self._show(position, 8)
      found = pattern.search(self._window, position - self._first)
      if found:
        return self._first + found.start()
      position = max(position + 1, self._first + len(self._window) - 7)
    return -1

  def _show(self, position: int, length: int) -> None:
    """Reads a new window if the current one lacks a part of a section that the file has."""
    last = self._first + len(self._window)
    if not self._first <= position <= last or last < min(position + length, self.size):
      self._file.seek(position)
      self._first, self._window = position, self._file.read(max(length, _WINDOW))


# FLAC: a marker, and a block with the number of samples in 36 bits.

_FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")


def _flac_parts(reader: _Reader) -> list[Part]:
  starts: list[int] = []
  position = reader.find(_FLAC_START, 0)
  while position >= 0:
    starts.append(position)
    position = reader.find(_FLAC_START, position + 1)
  parts = []
  for start, end in itertools.pairwise([*starts, reader.size]):
    field = reader.at(start + 21, 5)
    if len(field) < 5:
      return AS_IS
    frames = int.from_bytes(field, "big") & (1 << 36) - 1
    # With 0 samples stated, libsndfile reads to the end of the data.
    pieces = ((start, start + 21), bytes([field[0] & 0xF0, 0, 0, 0, 0]), (start + 26, end))
    parts.append(Part(pieces, frames or None, "" if frames else NO_LENGTH))
  return _joined(parts) if parts else AS_IS


# Ogg: pages, each with a checksum, the stream that it belongs to, and flags for its first and last
# page.

_OGG_PAGE = re.compile(b"OggS")
_FIRST_PAGE, _LAST_PAGE = 2, 4
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_parts(reader: _Reader, start: int, name: str) -> list[Part]:
  links: list[tuple[int, dict[int, tuple[int, int]]]] = []  # start, last page of each stream
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
  parts = []
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
  return _joined(parts)


def ogg_checksum(page: bytes) -> bytes:
  """Returns the CRC of a page whose own CRC counts as 0.

  It is the CRC of `zlib` with the bits of each byte, and of the result, in reverse order, and
  without its inversions.
  """
  content = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED)
  crc = zlib.crc32(content, 0xFFFFFFFF) ^ 0xFFFFFFFF
  return crc.to_bytes(4, "little").translate(_REVERSED)[::-1]


def _ended(page: bytes) -> bytes:
  """Returns a page with the flag of a last page."""
  return page[:5] + bytes([page[5] | _LAST_PAGE]) + page[6:]


# WAV, AIFF, W64 and CAF: chunks with a name and a size; one holds the samples.


class _Container(NamedTuple):
  """The layout of a file of chunks.

  Attributes:
    magic: the first four bytes.
    first: position of the first chunk.
    name_bytes: length of a chunk's name.
    size: the format of a chunk's size, for `struct`.
    counts_header: whether the size includes the name and itself.
    align: chunks start at multiples of this.
    data: the beginning of the name of the chunk of samples.
    unknown: the size that libsndfile reads as "to the end".
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
_STREAMED = {4: 0x7FFF0000, 8: 1 << 62}  # sizes of 4 and 8 bytes from these on are those of pipes


def _chunked_parts(reader: _Reader, form: _Container) -> list[Part]:
  parts, start = [], 0
  while start is not None:
    part, start = _chunked_part(reader, form, start)
    parts.append(part)
  if len(parts) == 1 and len(parts[0].pieces) == 1:
    return [parts[0]._replace(pieces=())]
  return _joined(parts)


def _chunked_part(reader: _Reader, form: _Container, start: int) -> tuple[Part, int | None]:
  """Returns the stream that starts at a position, and where the next one starts."""
  unchanged = Part(((start, reader.size),))
  position, header = start + form.first, form.name_bytes + struct.calcsize(form.size)
  data: tuple[int, int] | None = None  # where its samples start, and their stated size
  end = 0  # of the chunk of samples
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
      return unchanged, None  # cut off, which `audio` reports
    position = body + size + -(body + size - start) % form.align
    end = end or (position if data is not None else 0)
  if data is None or (end and position != end) or _is_leftover(reader, position):
    return unchanged, None
  # What follows is no chunk but samples: the writer was stopped.
  size = form.unknown or reader.size - data[0] + (header if form.counts_header else 0)
  patched = data[0] - struct.calcsize(form.size)
  pieces = ((start, patched), struct.pack(form.size, size), (data[0], reader.size))
  return Part(pieces, None, NO_LENGTH if data[1] <= 0 else TOO_SHORT), None


def _is_leftover(reader: _Reader, position: int) -> bool:
  """Returns whether the bytes from a position to the end of the file are few, or a tag."""
  rest = reader.at(position, _LEFTOVER)
  return len(rest) < _LEFTOVER or rest.startswith(_TAGS)


# AU: a header with the position and the size of the samples.


def _au_parts(reader: _Reader) -> list[Part]:
  parts, start = [], 0
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
  return _joined(parts)


# MPEG audio (MP3): frames with a header each, and tags before, between and after them. The first
# frame may be silent and give the number of frames (a "Xing" frame).


_MPEG_SYNC = re.compile(rb"\xff[\xe2-\xff][\x10-\xef]")


class _Header(NamedTuple):
  """The header of a frame: what is the same in all frames of a stream, and the frame's size."""

  kind: tuple[int, int, bool]  # version, layer, one channel
  rate: int
  samples: int
  length: int
  side_bytes: int  # of the side information, which a Xing frame has before its text


_MPEG_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_BITRATES = {
  (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
  (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
  (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
  (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
  (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
  (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # kbit/s by generation and layer, from the index 1


def _mpeg_header(head: bytes) -> _Header | None:
  """Returns the header at the beginning of `head`, or None if it is none that can be read."""
  if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
    return None
  version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
  bitrate, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
  if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
    return None
  generation, single = 1 if version == 3 else 2, head[3] >> 6 == 3
  hertz = _MPEG_RATES[version][rate]
  bits = 1000 * _BITRATES[generation, layer][bitrate - 1]
  samples = 384 if layer == 1 else 576 if layer == 3 and generation == 2 else 1152
  slot = 4 if layer == 1 else 1
  length = (samples // 8 // slot * bits // hertz + padding) * slot
  side = {(1, False): 32, (1, True): 17, (2, False): 17, (2, True): 9}[generation, single]
  return _Header((version, layer, single), hertz, samples, length, side)


@dataclasses.dataclass
class _MpegStream:
  """The frames of one stream.

  Attributes:
    head: the four bytes at the start of the first frame.
    header: their meaning.
    stated: number of frames that a Xing frame gives, 0 if it gives none; None without such a frame.
    frames: number of frames, without the Xing frame.
    ranges: the sections of the file that the frames fill, with the Xing frame.
  """

  head: bytes
  header: _Header
  stated: int | None
  frames: int = 0
  ranges: list[tuple[int, int]] = dataclasses.field(default_factory=list)

  def add(self, position: int, length: int) -> None:
    if self.ranges and self.ranges[-1][1] == position:
      self.ranges[-1] = (self.ranges[-1][0], position + length)
    else:
      self.ranges.append((position, position + length))


def _mpeg_parts(reader: _Reader, start: int, name: str, estimate: Callable[[], int]) -> list[Part]:
  streams, skipped = _mpeg_streams(reader, start)
  note = f"{skipped} bytes between its frames are not sound" if skipped else ""
  if len(streams) == 1:
    (stream,) = streams
    missing = stream.frames * stream.header.samples - estimate()
    if (stream.stated or 0) >= stream.frames or -stream.header.rate // 10 <= missing <= 0:
      return [Part(note=note)]
  parts = [_mpeg_part(stream, name) for stream in streams if stream.frames]
  if not parts:
    return AS_IS  # not MPEG audio
  return _joined([parts[0]._replace(note=note or parts[0].note), *parts[1:]])


def _mpeg_part(stream: _MpegStream, name: str) -> Part:
  stated = stream.stated or 0
  if stated >= stream.frames:
    return Part(tuple(stream.ranges))
  layer = stream.header.kind[1]
  if layer != 3:
    raise AudioError(
      f"{name} is MPEG audio of layer {layer} with a varying bit rate or joined files; convert it: "
      "ffmpeg -i INPUT output.wav"
    )
  ranges = stream.ranges
  if stream.stated is not None:  # drops its own Xing frame
    ranges = [(ranges[0][0] + stream.header.length, ranges[0][1]), *ranges[1:]]
  note = TOO_SHORT if stated else NO_LENGTH
  return Part((_xing_frame(stream), *ranges), None, note)


def _mpeg_streams(reader: _Reader, start: int) -> tuple[list[_MpegStream], int]:
  """Returns the streams, and the number of bytes between frames that are not tags."""
  streams: list[_MpegStream] = []
  position, junk, skipped, in_step, after_tag = start, 0, 0, False, True
  while position < reader.size:
    head = reader.at(position, 4)
    header = _mpeg_header(head)
    if header is not None and (in_step or _is_followed(reader, position, header)):
      if position + header.length > reader.size:
        break  # the last frame is incomplete
      skipped, junk, in_step = skipped + (junk if streams else 0), 0, True
      stated = _xing_frames(reader.at(position, header.side_bytes + 16), header)
      last = streams[-1].header if streams else header
      if after_tag or stated is not None or (last.kind, last.rate) != (header.kind, header.rate):
        streams.append(_MpegStream(head, header, stated))
        after_tag = False
      streams[-1].frames += stated is None
      streams[-1].add(position, header.length)
      position += header.length
      continue
    in_step, end = False, _end_of_tag(reader, position)
    after_tag = after_tag or (end > position and head.startswith(b"ID3"))
    if end == position:
      end = reader.find(_MPEG_SYNC, position + 1)
      end = reader.size if end < 0 else end
      junk += end - position
    position = end
  return streams, skipped


def _is_followed(reader: _Reader, position: int, header: _Header) -> bool:
  """Returns whether the end of the file, a tag or another frame follows a frame."""
  end = position + header.length
  after = _mpeg_header(reader.at(end, 4))
  if after is not None:
    return (after.kind, after.rate) == (header.kind, header.rate)
  return end == reader.size or _end_of_tag(reader, end) > end


def _xing_frames(frame: bytes, header: _Header) -> int | None:
  """Returns the number of frames that a Xing frame gives, 0 if it gives none, None if it is none.

  Args:
    frame: the beginning of a frame.
    header: of the frame.
  """
  text = frame[4 + header.side_bytes :]
  if header.kind[1] != 3 or text[:4] not in (b"Xing", b"Info"):
    return None
  return int.from_bytes(text[8:12], "big") if len(text) >= 12 and text[7] & 1 else 0


def _xing_frame(stream: _MpegStream) -> bytes:
  """Returns a Xing frame with the number of frames of a stream."""
  _, flags, rate, mode = stream.head
  bitrate = 9 if stream.header.kind[0] == 3 else 8  # long enough for the text
  head = bytes([0xFF, flags | 1, bitrate << 4 | rate & 0x0C, mode])
  header = _mpeg_header(head)
  assert header is not None
  text = b"Xing" + struct.pack(">II", 1, stream.frames)
  return (head + bytes(header.side_bytes) + text).ljust(header.length, b"\0")


def _end_of_tag(reader: _Reader, position: int) -> int:
  """Returns the position after a tag, or `position` if none starts there."""
  head = reader.at(position, 16)
  if head.startswith(b"ID3"):
    return _end_of_id3(reader, position)
  if head.startswith(b"TAG") and position + 128 <= reader.size:
    return position + 128
  if head.startswith(b"APETAGEX") and len(head) == 16:
    end = position + 32 + int.from_bytes(head[12:16], "little")
    return end if end <= reader.size else position + 32  # the second tag is the end of the first
  return position


def _end_of_id3(reader: _Reader, position: int) -> int:
  """Returns the position after the ID3v2 tags at a position."""
  while True:
    head = reader.at(position, 10)
    if len(head) < 10 or not head.startswith(b"ID3") or max(head[6:10]) > 127:
      return position
    size = sum(byte << 7 * (3 - index) for index, byte in enumerate(head[6:10]))
    end = position + 10 + size + (10 if head[5] & 0x10 else 0)
    if end > reader.size:
      return position
    position = end


def _joined(parts: list[Part]) -> list[Part]:
  """Returns the parts, with a note if there are several."""
  if len(parts) == 1:
    return parts
  return [parts[0]._replace(note=f"it is {len(parts)} joined files, read as one"), *parts[1:]]


def _damaged(name: str, position: int) -> AudioError:
  return AudioError(
    f"{name} is damaged at byte {position}; copy it again, or save the readable part: "
    "ffmpeg -i INPUT output.wav"
  )
