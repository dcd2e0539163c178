import numpy as np
import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation.clips import EvalClip
from audiolm_jax.evaluation.explained import music_frames
from audiolm_jax.evaluation.suites.music_tokens import CHROMA, HEIGHT, RAW, TOKENS
from audiolm_jax.evaluation.suites.music_tokens import music_tokens_suite as measure
from audiolm_jax.semantic.spec import SemanticSpec

SPEC = SemanticSpec(num_clusters=12)


@pytest.fixture(scope="module")
def pieces(play):
  """Notes of half a second over four octaves, in any order."""
  rng = np.random.default_rng(0)
  notes = [[(0.5 * i, int(rng.integers(40, 88))) for i in range(12)] for _ in range(6)]
  return [EvalClip(f"piece{i}", play(of_piece, 6.0)) for i, of_piece in enumerate(notes)]


def pitch_classes(waveform):
  return music_frames(waveform, SPEC.sample_rate, SPEC.hop_length).chroma.argmax(axis=1)


def test_tokens_that_are_pitch_classes_explain_chroma_and_not_height(pieces):
  rows = {(row.metric, row.of): row for row in measure(pitch_classes, SPEC, pieces).rows}
  chroma, height = rows[CHROMA, TOKENS], rows[HEIGHT, TOKENS]
  assert chroma.estimate.value > 0.6 > 0.2 > height.estimate.value
  assert chroma.verdict == "aim" and height.verdict == "short"
  assert rows[CHROMA, RAW].estimate.value < chroma.estimate.value
  assert rows[HEIGHT, RAW].estimate.value > height.estimate.value + 0.2
  assert chroma.estimate.n == 6 and not rows[CHROMA, RAW].verdict


def test_one_recording_is_refused(pieces):
  same = [EvalClip(f"piece@{i}" if i else "piece", p.waveform) for i, p in enumerate(pieces)]
  with pytest.raises(DataError, match="two recordings"):
    measure(pitch_classes, SPEC, same)
