"""MPEG audio (MP3): frames that begin with a header, and tags before, between and after frames.

The first frame of a stream may be a "Xing" frame, which is silent and can state the number of
frames.
"""

import dataclasses
import re
import struct
from collections.abc import Callable
from typing import NamedTuple

from audiolm_jax.core.errors import AudioError
from audiolm_jax.io.pieces import AS_IS, NO_LENGTH, TOO_SHORT, Part, Reader, joined

_MPEG_SYNC = re.compile(rb"\xff[\xe2-\xff][\x10-\xef]")


class _Header(NamedTuple):
  """The header of a frame.

  Attributes:
    kind: version (3 for MPEG-1, 2 for MPEG-2, 0 for MPEG-2.5), layer (1 to 3), and whether there is
      only one channel; equal in all frames of a stream.
    rate: sample rate in Hz; equal in all frames of a stream.
    samples: samples per channel of the frame.
    length: bytes of the frame.
    side_bytes: bytes of the side information, which precedes the text "Xing" in a Xing frame.
  """

  kind: tuple[int, int, bool]
  rate: int
  samples: int
  length: int
  side_bytes: int


_MPEG_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_BITRATES = {
  (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
  (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
  (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
  (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
  (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
  (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # kbit/s by (generation, layer); the first entry of a row has the index 1


def mpeg_header(head: bytes) -> _Header | None:
  """Returns the frame header at the beginning of `head`; None if there is no supported header."""
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
    head: the four bytes of the first frame header.
    header: the first frame header, parsed.
    stated: number of frames that the Xing frame states; 0 if it states no number; None if the
      stream has no Xing frame.
    frames: number of frames, without the Xing frame.
    ranges: sections (start, end) of the file that contain the frames, including the Xing frame.
  """

  head: bytes
  header: _Header
  stated: int | None
  frames: int = 0
  ranges: list[tuple[int, int]] = dataclasses.field(default_factory=list[tuple[int, int]])

  def add(self, position: int, length: int) -> None:
    if self.ranges and self.ranges[-1][1] == position:
      self.ranges[-1] = (self.ranges[-1][0], position + length)
    else:
      self.ranges.append((position, position + length))


def mpeg_parts(reader: Reader, start: int, name: str, estimate: Callable[[], int]) -> list[Part]:
  """Returns the streams from the position `start` to the end of a file.

  Args:
    reader: reader of the file.
    start: position in bytes.
    name: see `containers.parts_of`.
    estimate: see `containers.parts_of`.

  Raises:
    AudioError: MPEG audio of layer 1 or 2 has a variable bit rate or several streams.
  """
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
  return joined([parts[0]._replace(note=note or parts[0].note), *parts[1:]])


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
  if stream.stated is not None:  # drops the original Xing frame
    ranges = [(ranges[0][0] + stream.header.length, ranges[0][1]), *ranges[1:]]
  note = TOO_SHORT if stated else NO_LENGTH
  return Part((_xing_frame(stream), *ranges), None, note)


def _mpeg_streams(reader: Reader, start: int) -> tuple[list[_MpegStream], int]:
  """Returns the streams, and the number of bytes between frames, without the bytes of tags."""
  streams: list[_MpegStream] = []
  position, junk, skipped, in_step, after_tag = start, 0, 0, False, True
  while position < reader.size:
    head = reader.at(position, 4)
    header = mpeg_header(head)
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


def _is_followed(reader: Reader, position: int, header: _Header) -> bool:
  """Returns whether a frame of equal kind and rate, a tag or the end of the file follows."""
  end = position + header.length
  after = mpeg_header(reader.at(end, 4))
  if after is not None:
    return (after.kind, after.rate) == (header.kind, header.rate)
  return end == reader.size or _end_of_tag(reader, end) > end


def _xing_frames(frame: bytes, header: _Header) -> int | None:
  """Returns the number of frames that a Xing frame states.

  Args:
    frame: the beginning of any frame.
    header: the parsed header of the frame.

  Returns:
    The number of frames; 0 if the Xing frame states no number; None if `frame` is not a Xing frame.
  """
  text = frame[4 + header.side_bytes :]
  if header.kind[1] != 3 or text[:4] not in (b"Xing", b"Info"):
    return None
  return int.from_bytes(text[8:12], "big") if len(text) >= 12 and text[7] & 1 else 0


def _xing_frame(stream: _MpegStream) -> bytes:
  """Returns a Xing frame that states the number of frames in a stream."""
  _, flags, rate, mode = stream.head
  bitrate = 9 if stream.header.kind[0] == 3 else 8  # a frame with space for the text
  head = bytes([0xFF, flags | 1, bitrate << 4 | rate & 0x0C, mode])
  header = mpeg_header(head)
  assert header is not None
  text = b"Xing" + struct.pack(">II", 1, stream.frames)
  return (head + bytes(header.side_bytes) + text).ljust(header.length, b"\0")


def _end_of_tag(reader: Reader, position: int) -> int:
  """Returns the position after the tag that starts at `position`; `position` if there is no tag."""
  head = reader.at(position, 16)
  if head.startswith(b"ID3"):
    return end_of_id3(reader, position)
  if head.startswith(b"TAG") and position + 128 <= reader.size:
    return position + 128
  if head.startswith(b"APETAGEX") and len(head) == 16:
    end = position + 32 + int.from_bytes(head[12:16], "little")
    return end if end <= reader.size else position + 32  # the footer of a tag
  return position


def end_of_id3(reader: Reader, position: int) -> int:
  """Returns the position after the ID3v2 tags that start at `position`."""
  while True:
    head = reader.at(position, 10)
    if len(head) < 10 or not head.startswith(b"ID3") or max(head[6:10]) > 127:
      return position
    size = sum(byte << 7 * (3 - index) for index, byte in enumerate(head[6:10]))
    end = position + 10 + size + (10 if head[5] & 0x10 else 0)
    if end > reader.size:
      return position
    position = end
