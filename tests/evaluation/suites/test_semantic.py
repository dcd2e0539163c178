import numpy as np

from audiolm_jax.evaluation.clips import EvalClip
from audiolm_jax.evaluation.suites.semantic import semantic_suite


def test_semantic_suite_reads_sentences_and_voices_from_the_clips():
  def clip(sentence, speaker, level):
    return EvalClip(f"{sentence}{speaker}", np.full(8, level, np.float32), speaker, sentence)

  probes = [clip("one", s, 1.0) for s in "ab"] + [clip("two", s, 2.0) for s in "ab"]
  result = semantic_suite(lambda w: w.astype(int), probes, num_clusters=4)
  assert result.rows[0].estimate.value == 1
  assert result.rows[0].verdict == "aim"
  assert result.rows[-1].estimate.value == 1 / 8
