"""Reading and writing audio files, and the errors for those that cannot be used."""

import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import AudioError, UserError
from audiolm_jax.io import audio

RATE = 16_000


def tone(seconds=1.0, rate=RATE, frequency=440.0):
  return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(
    np.float32
  )


def correlation(a, b):
  return float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))


@pytest.mark.parametrize(
  "extension, subtype",
  [
    ("wav", "PCM_U8"),
    ("wav", "PCM_16"),
    ("wav", "PCM_24"),
    ("wav", "PCM_32"),
    ("wav", "FLOAT"),
    ("wav", "DOUBLE"),
    ("aiff", "PCM_S8"),
    ("flac", "PCM_16"),
    ("ogg", "VORBIS"),
    ("mp3", "MPEG_LAYER_III"),
    ("au", "PCM_16"),
    ("w64", "PCM_16"),
    ("caf", "PCM_16"),
  ],
)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_every_common_format_and_channel_count_is_read_as_one_channel(
  tmp_path, extension, subtype, channels
):
  if extension == "mp3" and channels == 6:
    pytest.skip("MP3 has two channels at most")
  path = tmp_path / f"a.{extension}"
  soundfile.write(path, np.tile(tone()[:, None], (1, channels)), RATE, subtype=subtype)
  waveform, rate = audio.read_audio(path)
  assert rate == RATE and waveform.dtype == np.float32 and waveform.shape == (RATE,)
  assert correlation(waveform, tone()) > 0.98


def test_channels_are_averaged(tmp_path):
  soundfile.write(tmp_path / "a.wav", np.stack([tone(), -tone()], axis=1), RATE)
  waveform, _ = audio.read_audio(tmp_path / "a.wav")
  assert np.abs(waveform).max() < 1e-4


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_any_rate_is_resampled_to_the_same_sound(tmp_path, rate):
  soundfile.write(tmp_path / "a.wav", tone(rate=rate), rate)
  waveform, found = audio.read_audio(tmp_path / "a.wav")
  assert found == rate
  resampled = audio.resample(waveform, rate, RATE)
  assert resampled.shape == (RATE,)
  assert correlation(resampled[800:-800], tone()[800:-800]) > 0.9999


def test_resampling_a_batch_equals_resampling_its_rows():
  batch = np.stack([tone(), tone(frequency=300)])
  resampled = audio.resample(batch, RATE, 24_000)
  assert resampled.shape == (2, 24_000)
  np.testing.assert_array_equal(resampled[1], audio.resample(batch[1], RATE, 24_000))


@pytest.mark.parametrize("rate", [16_000, 8_000, 44_100])
@pytest.mark.parametrize("seconds", [0.01, 1.0, 7.3])
def test_joined_blocks_equal_the_whole_file(tmp_path, rate, seconds):
  rng = np.random.default_rng(0)
  soundfile.write(tmp_path / "a.flac", rng.uniform(-0.5, 0.5, round(seconds * rate)), rate)  # pyright: ignore[reportArgumentType]: NumPy leaves the type out
  whole = audio.resample(*audio.read_audio(tmp_path / "a.flac"), RATE)
  blocks = list(audio.read_blocks(tmp_path / "a.flac", sample_rate=RATE, block_samples=16_000))
  assert all(len(b) == 16_000 for b in blocks[:-1]) and 0 < len(blocks[-1]) <= 16_000
  np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-5)
  loaded = audio.load_audio(tmp_path / "a.flac", RATE)
  np.testing.assert_array_equal(loaded, np.concatenate(blocks))


def test_only_the_beginning_is_read_when_asked(tmp_path):
  soundfile.write(tmp_path / "a.wav", tone(5.0), RATE)
  whole, _ = audio.read_audio(tmp_path / "a.wav")
  begin, _ = audio.read_audio(tmp_path / "a.wav", seconds=1.5)
  np.testing.assert_array_equal(begin, whole[:24_000])
  assert len(audio.read_audio(tmp_path / "a.wav", seconds=60)[0]) == len(whole)
  assert len(audio.load_audio(tmp_path / "a.wav", 8_000, seconds=1.5)) == 12_000


def test_slices_of_a_file_equal_the_whole_file(tmp_path):
  rng = np.random.default_rng(0)
  soundfile.write(tmp_path / "a.flac", rng.uniform(-0.5, 0.5, (400_000, 2)), 44_100)
  whole = audio.load_audio(tmp_path / "a.flac", RATE)
  sliced = audio.SlicedAudio(tmp_path / "a.flac", RATE)
  assert len(sliced) == len(whole) and sliced.shape == whole.shape
  for first, last in [(0, 10), (5, 100_000), (90_000, 100_010), (99_000, 10**9), (0, 7), (9, 9)]:
    np.testing.assert_array_equal(sliced[first:last], whole[first:last])
  np.testing.assert_array_equal(np.asarray(sliced), whole)
  assert 0 < sliced.resampled_peak == np.abs(whole).max()
  other = audio.SlicedAudio(tmp_path / "a.flac", RATE)
  soundfile.write(tmp_path / "a.flac", rng.uniform(-0.5, 0.5, 1_000), 44_100)
  with pytest.raises(AudioError, match="changed while it was read"):
    other[:]


def test_an_hour_is_sliced_in_bounded_memory(tmp_path):
  with soundfile.SoundFile(tmp_path / "long.flac", "w", 1_000, 1, subtype="PCM_16") as file:
    file.write(np.zeros(3_600_000, np.int16))
  tracemalloc.start()
  sliced = audio.SlicedAudio(tmp_path / "long.flac", RATE)
  assert len(sliced) == 3_600 * RATE and sliced.peak == 0
  assert not sliced[:RATE].any() and len(sliced[50 * RATE : 51 * RATE]) == RATE
  _, most = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert most < 100e6  # of 230 MB
  with pytest.raises(AudioError, match=r"long\.flac is silent \(its peak is 0\.0e\+00,"):
    audio.check_peak(sliced.peak, "long.flac")


def test_missing_folder_empty_and_foreign_files_are_refused(tmp_path):
  (tmp_path / "empty.wav").touch()
  (tmp_path / "text.wav").write_text("not sound at all, " * 100)
  (tmp_path / "samples.raw").write_bytes(b"\0" * 100)
  soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
  for name, words in [
    ("missing.wav", "does not exist"),
    (".", "is a folder"),
    ("empty.wav", "is empty"),
    ("text.wav", "is not a supported audio file"),
    ("samples.raw", "without a header"),
    ("none.wav", "holds no samples"),
  ]:
    with pytest.raises(AudioError, match=words) as caught:
      audio.read_audio(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name == "." or name in str(caught.value)
  with pytest.raises(AudioError, match="not a regular file"):
    audio.read_audio("/dev/null")
  with pytest.raises(AudioError, match="- is standard input, which is not read"):
    audio.read_audio("-")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_read_permission_is_refused(tmp_path):
  soundfile.write(tmp_path / "a.wav", tone(), RATE)
  (tmp_path / "a.wav").chmod(0)
  with pytest.raises(AudioError, match="Permission denied"):
    audio.read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3", "aiff", "au", "w64", "caf"])
def test_a_file_cut_in_half_is_refused(tmp_path, extension, capfd):
  whole = tmp_path / f"whole.{extension}"
  soundfile.write(whole, tone(5.0), RATE)
  content = whole.read_bytes()
  cut = tmp_path / f"cut.{extension}"
  cut.write_bytes(content[: len(content) // 2])
  with pytest.raises(AudioError, match=r"truncated: .* can be read|malformed") as caught:
    audio.read_audio(cut)
  assert "\n" not in str(caught.value)
  with pytest.raises(AudioError):
    list(audio.read_blocks(cut, sample_rate=8_000, block_samples=1_000))


def test_a_wav_of_unstated_length_is_read(tmp_path):
  # As ffmpeg writes to a pipe.
  soundfile.write(tmp_path / "a.wav", tone(), RATE)
  content = bytearray((tmp_path / "a.wav").read_bytes())
  content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
  (tmp_path / "a.wav").write_bytes(content)
  assert len(audio.read_audio(tmp_path / "a.wav")[0]) == RATE


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinite_samples_are_refused(tmp_path, bad):
  samples = tone()
  samples[700] = bad
  soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
  with pytest.raises(AudioError, match="NaN or infinite"):
    audio.read_audio(tmp_path / "a.wav")
  with pytest.raises(AudioError, match="NaN or infinite"):
    audio.as_waveform(samples)
  with pytest.raises(AudioError, match="NaN or infinite"):
    audio.write_audio(tmp_path / "b.wav", samples, RATE)
  assert not (tmp_path / "b.wav").exists()


def test_samples_whose_sum_overflows_are_refused_without_a_warning(tmp_path):
  samples = np.full((100, 2), 3e38, np.float32)
  soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
  with pytest.raises(AudioError, match="NaN or infinite"):
    audio.read_audio(tmp_path / "a.wav")


def test_overshoot_is_clipped_and_another_scale_is_refused(tmp_path):
  soundfile.write(tmp_path / "a.wav", 3 * tone(), RATE, subtype="FLOAT")
  assert np.abs(audio.read_audio(tmp_path / "a.wav")[0]).max() == 1.0
  soundfile.write(tmp_path / "a.wav", 32_768 * tone(), RATE, subtype="FLOAT")
  with pytest.raises(AudioError, match=r"scale them to \[-1, 1\]"):
    audio.read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize(
  "dtype", ["int8", "uint8", "int16", "int32", "int64", "float16", "float32", "float64"]
)
def test_samples_of_every_number_type_become_the_same_waveform(dtype):
  kind = np.dtype(dtype)
  if kind.kind == "f":
    samples = tone().astype(kind)
  else:
    half = 2.0 ** (8 * kind.itemsize - 1)
    samples = (tone().astype(np.float64) * half + (half if kind.kind == "u" else 0)).astype(kind)
  waveform = audio.as_waveform(samples)
  assert waveform.dtype == np.float32
  np.testing.assert_allclose(waveform, tone(), atol=0.01 if kind.itemsize == 1 else 1e-3)


def test_values_that_are_not_samples_are_refused():
  for samples, words in [
    (np.array(["a"]), "give floats"),
    (np.ones(3, bool), "give floats"),
    (np.ones(3, complex), "give floats"),
    (np.zeros(0, np.float32), "no samples"),
  ]:
    with pytest.raises(AudioError, match=words):
      audio.as_waveform(samples)


def test_silent_and_short_audio_is_refused():
  with pytest.raises(AudioError, match=r"a\.wav is silent"):
    audio.check_not_silent(np.zeros(100, np.float32), "a.wav")
  with pytest.raises(AudioError, match="silent"):
    audio.check_not_silent(np.stack([tone(), 0 * tone()]), "the batch")
  audio.check_not_silent(tone(), "a.wav")
  with pytest.raises(AudioError, match=r"a\.wav is 0.10 s long; at least 0.40 s"):
    audio.check_length(1_600, RATE, 0.4, "a.wav")


@pytest.mark.parametrize("rate", [0, -1, 10, 10_000_000])
def test_unsupported_sample_rates_are_refused(rate):
  with pytest.raises(AudioError, match="sample rate"):
    audio.resample(tone(), rate, RATE)


def test_wav_is_written_as_16_bit_pcm_and_read_back(tmp_path):
  audio.write_audio(tmp_path / "a.wav", tone(), RATE)
  assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
  np.testing.assert_allclose(audio.read_audio(tmp_path / "a.wav")[0], tone(), atol=1 / 32_768)


@pytest.mark.parametrize("extension", ["flac", "ogg", "mp3", "aiff"])
def test_the_extension_chooses_the_format(tmp_path, extension):
  audio.write_audio(tmp_path / f"a.{extension}", tone(), RATE)
  assert soundfile.info(tmp_path / f"a.{extension}").format == extension.upper()
  assert correlation(audio.read_audio(tmp_path / f"a.{extension}")[0], tone()) > 0.98


def test_samples_past_full_scale_are_clipped_not_wrapped(tmp_path):
  audio.write_audio(tmp_path / "a.wav", 4 * tone(), RATE)
  waveform, _ = audio.read_audio(tmp_path / "a.wav")
  assert correlation(waveform, tone()) > 0.9


def test_paths_that_cannot_be_written_are_refused_and_unchanged(tmp_path):
  (tmp_path / "file").touch()
  for place, words in [
    (tmp_path / "missing" / "a.wav", "does not exist; create it"),
    (tmp_path / "file" / "a.wav", "is not a folder|Not a directory"),
    (tmp_path / ("a" * 300 + ".wav"), "too long"),
  ]:
    with pytest.raises(UserError, match=words):
      audio.write_audio(place, tone(), RATE)
  (tmp_path / "folder.wav").mkdir()
  with pytest.raises(UserError, match="is a folder"):
    audio.write_audio(tmp_path / "folder.wav", tone(), RATE)
  with pytest.raises(AudioError, match="no extension"):
    audio.write_audio(tmp_path / "a", tone(), RATE)
  with pytest.raises(AudioError, match="use one of"):
    audio.write_audio(tmp_path / "a.txt", tone(), RATE)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.wav"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
  # A limit on file sizes fails in the same call as a full disk.
  audio.write_audio(tmp_path / "a.wav", tone(0.1), RATE)
  before = (tmp_path / "a.wav").read_bytes()
  program = (
    "import resource, signal, sys, numpy as np\n"
    "from audiolm_jax.core import errors; from audiolm_jax.io import audio\n"
    "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
    "try: audio.write_audio(sys.argv[1], np.ones(100_000, np.float32), 16_000)\n"
    "except errors.UserError as error: print(error); sys.exit(2)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", program, str(tmp_path / "a.wav")], capture_output=True, text=True
  )
  assert done.returncode == 2 and "cannot write" in done.stdout, done.stderr
  assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]
  assert (tmp_path / "a.wav").read_bytes() == before
