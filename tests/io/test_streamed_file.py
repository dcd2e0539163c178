"""Files whose beginning is sent before their end is made."""

import io

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import AudioError
from audiolm_jax.io import audio, provenance, streamed_file

RATE, SAMPLES = 16_000, 40_000
TAGS = provenance.Provenance("a", "b" * 64, "speech", 0, 0, 0.0, "codec").tags()


@pytest.fixture
def waveform():
  """A gliding tone, louder than full scale in places."""
  time = np.arange(SAMPLES) / RATE
  tone = np.sin(2 * np.pi * (200 + 150 * time) * time) * (1.2 - 0.4 * time)
  return tone.astype(np.float32)


def blocks_of(waveform, size=1_600):
  return iter([waveform[start : start + size] for start in range(0, len(waveform), size)])


def content(waveform, form, samples=SAMPLES, tags=TAGS):
  return streamed_file.content(
    blocks_of(waveform), form, sample_rate=RATE, samples=samples, tags=tags
  )


@pytest.mark.parametrize("tags", [TAGS, {}])
def test_a_streamed_wav_file_is_the_file_that_is_written_at_once(tmp_path, waveform, tags):
  audio.write_audio(tmp_path / "a.wav", waveform, RATE, tags)
  assert b"".join(content(waveform, "wav", tags=tags)) == (tmp_path / "a.wav").read_bytes()


def test_pcm_is_the_samples_alone(waveform):
  found = np.frombuffer(b"".join(content(waveform, "pcm")), "<i2")
  np.testing.assert_allclose(found / 32_768, waveform.clip(-1, 1), atol=1.001 / 32_768)


@pytest.mark.parametrize(("form", "most", "delay"), [("flac", 2e-5, 0), ("mp3", 0.05, 1_681)])
def test_an_encoded_stream_has_the_samples_and_the_tags(tmp_path, waveform, form, most, delay):
  path = tmp_path / f"a.{form}"
  path.write_bytes(b"".join(content(waveform, form)))
  found, rate = audio.read_audio(path)
  assert rate == RATE and len(found) == SAMPLES if form == "flac" else len(found) > SAMPLES + delay
  # What a player displays; the metadata count as audio in MP3.
  assert soundfile.info(path).frames == pytest.approx(len(found), abs=0 if form == "flac" else 900)
  error = found[delay : delay + SAMPLES] - waveform.clip(-1, 1)
  assert np.sqrt(np.mean(error**2)) < most
  record = provenance.read_provenance(path)
  assert record and record.mode == "speech"


@pytest.mark.parametrize("form", streamed_file.FORMATS)
def test_pieces_come_while_the_samples_are_made(waveform, form):
  taken = []

  def made():
    for block in blocks_of(waveform):
      taken.append(len(block))
      yield block

  pieces = streamed_file.content(made(), form, sample_rate=RATE, samples=SAMPLES, tags={})
  first = [next(pieces), next(pieces)]
  assert all(first) and sum(taken) <= 8_000
  rest = list(pieces)
  assert all(rest) and len(rest) >= 4
  assert max(map(len, rest)) < 8_000


@pytest.mark.parametrize("form", streamed_file.FORMATS)
def test_a_wrong_announcement_is_an_error(waveform, form):
  with pytest.raises(AudioError, match="has 40000 samples, and 40001 were announced"):
    list(content(waveform, form, samples=SAMPLES + 1))


def test_a_stream_that_is_left_closes_its_encoder(waveform):
  pieces = content(waveform, "mp3")
  start = next(pieces)
  pieces.close()
  assert soundfile.info(io.BytesIO(start)).samplerate == RATE
