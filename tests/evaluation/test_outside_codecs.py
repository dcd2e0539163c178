import io

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation import outside_codecs, signal
from audiolm_jax.evaluation.outside_codecs import OutsideCodec
from tests.conftest import melody

RATE = 16_000


@pytest.fixture(scope="module")
def speech(voice):
  return voice(150, 900, seed=0, seconds=4)


def lag(reference, estimate):
  """Samples by which `estimate` comes late."""
  size = 2 * len(reference)
  product = np.fft.rfft(estimate, size) * np.conj(np.fft.rfft(reference, size))
  return (int(np.argmax(np.fft.irfft(product))) + len(reference)) % size - len(reference)


def test_opus_takes_about_the_bits_that_its_name_says_and_comes_in_time():
  sound = melody(10.0)
  distances = []
  for codec, kbits in zip(outside_codecs.opus_codecs(RATE), (6, 9, 12), strict=True):
    assert (codec.name, codec.sample_rate) == (f"Opus at {kbits} kbit/s", RATE)
    decoded, rate = codec.through(sound)
    assert rate == pytest.approx(1000 * kbits, rel=0.15)
    assert decoded.shape == sound.shape and abs(lag(sound, decoded)) <= 2
    distances.append(signal.log_mel_distance(sound, decoded, RATE))
  assert distances == sorted(distances, reverse=True) and distances[-1] > 0.1


def test_opus_works_at_rates_that_it_does_not_have(voice):
  assert [outside_codecs.opus_codecs(rate)[0].sample_rate for rate in (11_025, 22_050)] == [
    12_000,
    24_000,
  ]
  assert outside_codecs.opus_codecs(96_000)[0].sample_rate == 48_000
  clip = voice(150, 900, seed=0, seconds=1)
  codec = outside_codecs.opus_codecs(11_025)[-1]
  report = outside_codecs.evaluate_outside(codec, [clip], 11_025, speech=False)
  assert report.metrics["si_sdr_db"].value > 3


def test_without_opus_in_libsndfile_the_error_says_what_to_install(monkeypatch):
  monkeypatch.setattr(soundfile, "available_subtypes", lambda container: {"VORBIS": ""})
  with pytest.raises(UserError, match="has no Opus; pip install soundfile"):
    outside_codecs.opus_codecs(RATE)


def test_packets_are_a_file_without_its_pages(speech):
  file = io.BytesIO()
  soundfile.write(file, speech, RATE, format="OGG", subtype="OPUS")
  stream = file.getvalue()
  sizes = outside_codecs.ogg_packet_sizes(stream)
  pages = stream.count(b"OggS\0")
  head = stream.index(b"OpusHead")
  assert stream[head + sizes[0] :].startswith(b"OggS")
  assert len(sizes) == pytest.approx(2 + 4 / 0.02, abs=2)
  assert 27 * pages < len(stream) - sum(sizes) < 29 * pages + 2 * len(sizes)


def test_a_packet_goes_on_over_segments_and_pages():
  def page(segments):
    return b"OggS" + bytes(22) + bytes([len(segments), *segments]) + bytes(sum(segments))

  stream = page([10, 255, 255]) + page([0, 255, 3, 0])
  assert outside_codecs.ogg_packet_sizes(stream) == [10, 510, 258, 0]


def test_an_outside_codec_is_measured_at_the_rate_of_the_clips(speech):
  heard = []

  def through(waveform):
    heard.append(len(waveform))
    return waveform, 100.0 * len(heard)

  codec = OutsideCodec("same", RATE, through)
  report = outside_codecs.evaluate_outside(codec, [speech, speech[:RATE]], RATE, speech=True)
  assert heard == [4 * RATE, RATE]
  assert report.metrics["log_mel_db"].value == 0 and report.metrics["stoi"].value > 0.999
  assert report.metrics["bits_per_second"].value == 150 and report.metrics["stoi"].n == 2
  assert [row["bits_per_second"] for row in report.clips] == [100, 200]

  half = OutsideCodec("half", RATE // 2, through)
  narrow = outside_codecs.evaluate_outside(half, [speech], RATE, speech=False)
  assert heard[-1] == 2 * RATE
  assert set(narrow.metrics) == {"log_mel_db", "si_sdr_db", "bits_per_second"}
  assert 10 < narrow.metrics["si_sdr_db"].value < 60
