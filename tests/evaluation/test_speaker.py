import numpy as np
import pytest

from audiolm_jax.evaluation import speaker

RATE = 16_000


VOICES = {f"v{i}": (90 + 25 * i, 600 + 250 * (i * 3 % 7)) for i in range(7)}


@pytest.fixture(scope="module")
def model(voice):
  clips = [voice(*v, seed=10 * i + j) for i, v in enumerate(VOICES.values()) for j in range(2)]
  return speaker.fit_speaker_model(clips, [n for n in VOICES for _ in range(2)], RATE)


def test_new_voices_are_distinguished(model, voice):
  new = [(100, 1900), (140, 500), (190, 1300), (240, 800)]
  candidates = np.stack([model.embed(voice(*v, seed=200 + i), RATE) for i, v in enumerate(new)])
  found = [
    speaker.identify(model.embed(voice(*v, seed=300 + i), RATE), candidates)
    for i, v in enumerate(new)
  ]
  assert found == [0, 1, 2, 3]


def test_embedding_is_a_unit_vector_independent_of_the_level(model, voice):
  clip = voice(120, 900, seed=1)
  loud, soft = model.embed(clip, RATE), model.embed(clip * 0.25, RATE)
  assert np.linalg.norm(loud) == pytest.approx(1)
  assert loud @ soft > 0.99
  assert loud.shape == (len(VOICES) - 1,)


def test_segments_are_three_seconds_and_a_short_clip_is_one():
  assert [len(s) for s in speaker.segments(np.zeros(7 * RATE), RATE)] == [3 * RATE] * 2
  assert [len(s) for s in speaker.segments(np.zeros(RATE), RATE)] == [RATE]


def test_features_of_silence_are_finite():
  assert np.isfinite(speaker.voice_features(np.zeros(RATE, np.float32), RATE)).all()


def test_one_speaker_is_too_few(voice):
  with pytest.raises(ValueError, match="at least 2 speakers"):
    speaker.fit_speaker_model([voice(100, 900, seed=0)], ["one"], RATE)
