"""Sound files whose headers give another length than they have are read to the end, or refused."""

import logging
import os

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import AudioError
from audiolm_jax.io import audio, containers, mpeg, pieces, provenance

RATE = 16_000
SECONDS = 2.0
FORMATS = {
  "ogg": ("OGG", "VORBIS"),
  "opus": ("OGG", "OPUS"),
  "mp3": ("MP3", "MPEG_LAYER_III"),
  "flac": ("FLAC", "PCM_16"),
  "wav": ("WAV", "PCM_16"),
  "aiff": ("AIFF", "PCM_16"),
  "au": ("AU", "PCM_16"),
  "w64": ("W64", "PCM_16"),
  "caf": ("CAF", "PCM_16"),
}


def sound(seconds=SECONDS, seed=0):
  rng = np.random.default_rng(seed)
  time = np.arange(round(seconds * RATE)) / RATE
  tone = 0.3 * np.sin(2 * np.pi * (200 + 150 * seed) * time)
  return (tone + 0.02 * rng.standard_normal(len(time))).astype(np.float32)


def write(path, samples, extension=None, rate=RATE, **settings):
  container, subtype = FORMATS[extension or path.suffix[1:]]
  soundfile.write(path, samples, rate, format=container, subtype=subtype, **settings)
  return path.read_bytes()


def seconds_of(path):
  waveform, rate = audio.read_audio(path)
  blocks = list(audio.read_blocks(path, sample_rate=rate, block_samples=5_000))
  np.testing.assert_array_equal(np.concatenate(blocks), waveform)
  np.testing.assert_array_equal(audio.load_audio(path, rate), waveform)
  return len(waveform) / rate


def without_xing(content):
  """The frames of an MP3 file after the frame that gives their number."""
  header = mpeg.mpeg_header(content[:4])
  assert header is not None
  assert b"Xing" in content[: header.length] or b"Info" in content[: header.length]
  return content[header.length :]


def cover_art(size):
  return b"ID3\x04\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + bytes(size)


@pytest.mark.parametrize("extension", FORMATS)
def test_joined_files_are_read_to_the_end_with_one_warning(tmp_path, extension, caplog):
  one = write(tmp_path / f"one.{extension}", sound())
  two = write(tmp_path / f"two.{extension}", sound(1.5, seed=1))
  joined = tmp_path / f"joined.{extension}"
  joined.write_bytes(one + two)
  waveform, rate = audio.read_audio(joined)
  halves = [audio.read_audio(tmp_path / f"{name}.{extension}")[0] for name in ("one", "two")]
  assert rate == RATE
  np.testing.assert_allclose(waveform, np.concatenate(halves), atol=1e-6)
  (record,) = caplog.records
  assert record.levelno == logging.WARNING
  assert record.getMessage() == f"{joined}: it is 2 joined files, read as one; 3.50 s are read"
  assert seconds_of(joined) == 3.5
  assert len(audio.read_audio(joined, seconds=3.0)[0]) == 3 * RATE
  assert len(audio.read_audio(joined, seconds=1.0)[0]) == RATE


def test_joined_files_of_two_rates_are_refused(tmp_path):
  one, two = (write(tmp_path / "a.ogg", sound(), rate=rate) for rate in (16_000, 24_000))
  (tmp_path / "a.ogg").write_bytes(one + two)
  with pytest.raises(AudioError, match=r"changes from 16000 to 24000 Hz after 2\.00 s; split it"):
    audio.read_audio(tmp_path / "a.ogg")


def test_a_mark_of_generated_audio_is_found_in_each_joined_file(tmp_path):
  made = provenance.Provenance("speech", "feed", "unconditional", 3, 0, 0.0, "codec")
  audio.write_audio(tmp_path / "made.ogg", sound(), RATE, made.tags())
  real = write(tmp_path / "real.ogg", sound())
  (tmp_path / "joined.ogg").write_bytes(real + (tmp_path / "made.ogg").read_bytes())
  assert provenance.read_provenance(tmp_path / "real.ogg") is None
  assert provenance.read_provenance(tmp_path / "joined.ogg") == made


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("quiet", ["start", "end"])
def test_an_mp3_without_a_frame_count_is_read_to_the_end(tmp_path, mode, quiet, caplog):
  parts = [1e-4 * sound(3.0), sound(5.0)]
  samples = np.concatenate(parts if quiet == "start" else parts[::-1])
  content = write(tmp_path / "a.mp3", samples, bitrate_mode=mode, compression_level=0.5)
  whole, _ = audio.read_audio(tmp_path / "a.mp3")
  for name, head, frames in [
    ("plain", b"", without_xing(content)),
    ("cover", cover_art(900_000), without_xing(content)),
    ("tagged", cover_art(900_000), content + b"TAG" + bytes(125)),
    ("joined", b"", without_xing(content) * 2),
  ]:
    (tmp_path / "b.mp3").write_bytes(head + frames)
    waveform, _ = audio.read_audio(tmp_path / "b.mp3")
    copies = 2 if name == "joined" else 1
    # Without the first frame the silence that the encoder adds is not cut off.
    assert 0 <= len(waveform) - copies * len(whole) < 0.15 * RATE * copies, name
    ends = waveform[-RATE - 2_000 :].std(), whole[-RATE:].std()
    assert ends[0] == pytest.approx(ends[1], rel=0.1), name
  caplog.clear()
  (tmp_path / "b.mp3").write_bytes(without_xing(content)[:-7] if mode == "VARIABLE" else content)
  audio.read_audio(tmp_path / "b.mp3")
  warned = ["its header does not give its length" in r.getMessage() for r in caplog.records]
  assert warned == ([True] if mode == "VARIABLE" else [])


def test_a_frame_count_that_is_too_small_hides_nothing(tmp_path, caplog):
  content = bytearray(write(tmp_path / "a.mp3", sound(4.0), bitrate_mode="VARIABLE"))
  at = content.index(b"Xing") + 8
  content[at : at + 4] = (10).to_bytes(4, "big")
  (tmp_path / "a.mp3").write_bytes(content)
  assert seconds_of(tmp_path / "a.mp3") == pytest.approx(4.0, abs=0.15)
  assert "it has more samples than its header gives" in caplog.records[0].getMessage()


def test_bytes_between_the_frames_of_an_mp3_hide_nothing(tmp_path, caplog):
  content = without_xing(write(tmp_path / "a.mp3", sound(4.0), bitrate_mode="CONSTANT"))
  length = mpeg.mpeg_header(content[:4]).length  # pyright: ignore[reportOptionalMemberAccess]: it is not None
  (tmp_path / "a.mp3").write_bytes(content[: 20 * length] + bytes(500) + content[20 * length :])
  assert seconds_of(tmp_path / "a.mp3") == pytest.approx(4.0, abs=0.15)
  assert "500 bytes between its frames are not sound" in caplog.records[0].getMessage()


@pytest.mark.parametrize("stated", [0, RATE // 2])
@pytest.mark.parametrize("after", [b"", b"TAG" + bytes(125)])
def test_a_flac_whose_header_gives_too_little_is_read_to_the_end(tmp_path, stated, after, caplog):
  content = bytearray(write(tmp_path / "a.flac", sound()))
  content[21] &= 0xF0
  content[22:26] = stated.to_bytes(4, "big")
  (tmp_path / "a.flac").write_bytes(content + after)
  assert seconds_of(tmp_path / "a.flac") == pytest.approx(SECONDS, abs=0.02)
  words = "more samples than its header" if stated else "its header does not give its length"
  assert len(caplog.records) == 3 and words in caplog.records[0].getMessage()


def test_a_flac_with_a_tag_after_its_stated_end_is_read(tmp_path, caplog):
  content = write(tmp_path / "a.flac", sound())
  (tmp_path / "a.flac").write_bytes(content + b"TAG" + bytes(125))
  assert seconds_of(tmp_path / "a.flac") == SECONDS
  assert not caplog.records


def test_files_that_only_begin_like_sound_are_refused_with_one_line(tmp_path):
  path = tmp_path / "a.bin"
  for magic in (b"fLaC", b"OggS", b"RIFF", b"FORM", b"riff", b"caff", b".snd", b"ID3", b"\xff\xfb"):
    for rest in (b"", b"\0" * 500, b"\xff" * 500, bytes(range(256)) * 4):
      path.write_bytes(magic + rest)
      with pytest.raises(AudioError) as caught:
        audio.read_audio(path)
      assert "\n" not in str(caught.value)


def test_a_flac_that_ends_within_a_frame_is_read_if_it_states_no_length(tmp_path):
  content = bytearray(write(tmp_path / "a.flac", sound(20.0)))
  cut = content[: len(content) // 2]
  (tmp_path / "a.flac").write_bytes(cut)
  with pytest.raises(AudioError, match="truncated"):
    audio.read_audio(tmp_path / "a.flac")
  cut[21] &= 0xF0
  cut[22:26] = bytes(4)
  (tmp_path / "a.flac").write_bytes(cut)
  assert 9.0 < seconds_of(tmp_path / "a.flac") < 11.0


SIZES = {"wav": (b"data", 4), "aiff": (b"SSND", 4), "w64": (b"data", 16), "caf": (b"data", 4)}


@pytest.mark.parametrize("size", [b"\0", b"\xff", None])
@pytest.mark.parametrize("extension", ["wav", "aiff", "au", "w64", "caf"])
def test_samples_after_the_stated_end_are_read(tmp_path, extension, size, caplog):
  content = bytearray(write(tmp_path / f"a.{extension}", sound()))
  if extension == "au":
    at, length = 8, 4
  else:
    name, offset = SIZES[extension]
    at = content.index(name) + offset
    length = 8 if extension in ("w64", "caf") else 4
  if size is not None:
    content[at : at + length] = size * length
  else:
    order = "little" if extension in ("wav", "w64") else "big"
    content[at : at + length] = (8_000).to_bytes(length, order)
  (tmp_path / f"a.{extension}").write_bytes(content)
  assert seconds_of(tmp_path / f"a.{extension}") == pytest.approx(SECONDS, abs=0.01)
  words = "more samples than its header" if size is None else "its header does not give its length"
  assert len(caplog.records) == 3 and words in caplog.records[0].getMessage()


def test_chunks_and_tags_after_the_samples_are_not_read_as_samples(tmp_path, caplog):
  content = write(tmp_path / "a.wav", sound())
  chunk = b"LIST" + (20_000).to_bytes(4, "little") + bytes(20_000)
  for after in (chunk, chunk + b"ID3" + bytes(9_000), b"TAG" + bytes(9_000), bytes(100)):
    (tmp_path / "a.wav").write_bytes(content + after)
    assert seconds_of(tmp_path / "a.wav") == SECONDS
  empty = write(tmp_path / "b.wav", np.zeros(0))
  (tmp_path / "b.wav").write_bytes(empty + chunk)
  with pytest.raises(AudioError, match="holds no samples"):
    audio.read_audio(tmp_path / "b.wav")
  assert not caplog.records


@pytest.mark.parametrize("subtype", ["ogg", "opus"])
def test_an_ogg_file_without_its_end_flag_is_read(tmp_path, subtype, caplog):
  content = bytearray(write(tmp_path / "a.ogg", sound(), subtype))
  last = content.rindex(b"OggS")
  content[last + 5] &= ~4
  for valid in (False, True):
    if valid:
      content[last + 22 : last + 26] = containers.ogg_checksum(bytes(content[last:]))
    (tmp_path / "a.ogg").write_bytes(content)
    assert seconds_of(tmp_path / "a.ogg") == SECONDS
  assert "it has no end flag; 2.00 s are read" in caplog.records[0].getMessage()


def test_damaged_pages_and_pages_after_the_end_of_an_ogg_stream_are_refused(tmp_path):
  content = write(tmp_path / "a.ogg", sound(4.0))
  pages = [at for at in range(len(content)) if content.startswith(b"OggS", at)]
  flipped = bytearray(content)
  flipped[pages[-1] + 100] ^= 1
  early = bytearray(content)  # the end flag on the page before the last one
  page = bytearray(content[pages[-2] : pages[-1]])
  page[5] |= 4
  page[22:26] = containers.ogg_checksum(bytes(page))
  early[pages[-2] : pages[-1]] = page
  junk = content[: pages[-1]] + b"junk" + content[pages[-1] :]
  for damaged in (flipped, early, junk):
    (tmp_path / "a.ogg").write_bytes(damaged)
    with pytest.raises(AudioError, match=r"a\.ogg is damaged at byte \d+; copy it again"):
      audio.read_audio(tmp_path / "a.ogg")
  (tmp_path / "a.ogg").write_bytes(content + bytes(500))
  assert seconds_of(tmp_path / "a.ogg") == 4.0


def test_whole_files_are_read_as_they_are_without_a_warning(tmp_path, caplog):
  for extension in FORMATS:
    path = tmp_path / f"a.{extension}"
    content = write(path, np.stack([sound(), sound(seed=1)], axis=1))
    stated = soundfile.info(path).frames
    with open(path, "rb") as file:
      parts = containers.parts_of(file, "a", lambda stated=stated: stated)
    assert [bool(part.pieces) for part in parts] == [extension == "flac"]
    assert seconds_of(path) == SECONDS and len(content) == os.path.getsize(path)
  assert not caplog.records


def test_a_file_of_pieces_reads_like_the_joined_bytes(tmp_path):
  (tmp_path / "a").write_bytes(bytes(range(100)))
  with open(tmp_path / "a", "rb") as source:
    file = pieces.PieceFile(source, [b"head", (10, 20), b"", (5, 5), (0, 3), b"tail"])
    whole = b"head" + bytes(range(10, 20)) + bytes(range(3)) + b"tail"
    assert file.read() == whole and file.tell() == len(whole)
    for first in range(len(whole)):
      file.seek(first)
      assert file.read(7) == whole[first : first + 7]
    assert file.seek(-2, os.SEEK_END) == len(whole) - 2 and file.read() == b"il"
