import io

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation import outside_codecs, signal
from audiolm_jax.evaluation.codec import BITS_PER_SECOND, LOG_MEL, SI_SDR, STOI
from audiolm_jax.evaluation.outside_codecs import OutsideCodec
from tests.conftest import melody

RATE = 16_000


@pytest.fixture(scope="module")
def speech(voice):
  return voice(150, 900, seed=0, seconds=4)


def lag(reference, estimate):
  """Returns the delay of `estimate` in samples."""
  size = 2 * len(reference)
  product = np.fft.rfft(estimate, size) * np.conj(np.fft.rfft(reference, size))
  return (int(np.argmax(np.fft.irfft(product))) + len(reference)) % size - len(reference)


def test_opus_takes_about_the_bits_of_its_name_and_has_no_delay():
  sound = melody(10.0)
  distances = []
  for codec, kbits in zip(outside_codecs.opus_codecs(RATE), (6, 9, 12), strict=True):
    assert (codec.name, codec.sample_rate) == (f"Opus at {kbits} kbit/s", RATE)
    decoded, rate = codec.through(sound)
    assert rate == pytest.approx(1000 * kbits, rel=0.15)
    assert decoded.shape == sound.shape and abs(lag(sound, decoded)) <= 2
    distances.append(signal.log_mel_distance(sound, decoded, RATE))
  assert distances == sorted(distances, reverse=True) and distances[-1] > 0.1


def test_opus_works_at_unsupported_sample_rates(voice):
  assert [outside_codecs.opus_codecs(rate)[0].sample_rate for rate in (11_025, 22_050)] == [
    12_000,
    24_000,
  ]
  assert outside_codecs.opus_codecs(96_000)[0].sample_rate == 48_000
  clip = voice(150, 900, seed=0, seconds=1)
  codec = outside_codecs.opus_codecs(11_025)[-1]
  (metrics,) = outside_codecs.evaluate_outside(codec, [clip], 11_025, speech=False)
  assert metrics[SI_SDR] > 3


def test_without_opus_in_libsndfile_the_error_names_the_package(monkeypatch):
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


def test_a_packet_continues_over_segments_and_pages():
  def page(segments):
    return b"OggS" + bytes(22) + bytes([len(segments), *segments]) + bytes(sum(segments))

  stream = page([10, 255, 255]) + page([0, 255, 3, 0])
  assert outside_codecs.ogg_packet_sizes(stream) == [10, 510, 258, 0]


def test_an_outside_codec_is_measured_at_the_rate_of_the_clips(speech):
  lengths = []

  def through(waveform):
    lengths.append(len(waveform))
    return waveform, 100.0 * len(lengths)

  codec = OutsideCodec("same", RATE, through)
  rows = outside_codecs.evaluate_outside(codec, [speech, speech[:RATE]], RATE, speech=True)
  assert lengths == [4 * RATE, RATE]
  assert rows[0][LOG_MEL] == rows[1][LOG_MEL] == 0 and rows[0][STOI] > 0.999
  assert [row[BITS_PER_SECOND] for row in rows] == [100, 200]

  half = OutsideCodec("half", RATE // 2, through)
  (narrow,) = outside_codecs.evaluate_outside(half, [speech], RATE, speech=False)
  assert lengths[-1] == 2 * RATE
  assert set(narrow) == {LOG_MEL, SI_SDR, BITS_PER_SECOND}
  assert 10 < narrow[SI_SDR] < 60
