import dataclasses

import pytest
import soundfile

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation.exports import likelihoods
from audiolm_jax.evaluation.pairs import read_pairs
from audiolm_jax.evaluation.suites.likelihood import likelihood_suite
from audiolm_jax.io import audio
from tests.conftest import melody

RATE = 16_000


def test_the_scores_give_the_accuracies_of_the_suite(miniature_bundle, tmp_path):
  for task in ("speaker", "room"):
    (tmp_path / task).mkdir()
    for index in range(4):
      path = tmp_path / task / f"sample_{index // 2}_{index % 2}.wav"
      soundfile.write(path, melody(0.5 + 0.1 * index, seed=len(task) + index), RATE)
  out = tmp_path / "out"
  out.mkdir()
  pairs = read_pairs(tmp_path)
  read = lambda path: audio.load_audio(path, RATE)  # noqa: E731
  facts = likelihoods.export_likelihoods(miniature_bundle, pairs, read, str(out))
  assert facts == {"sounds": 8, "stages": ["semantic", "coarse", "fine"]}
  rows = likelihood_suite(miniature_bundle, pairs, read).rows
  accuracy = {row.figure: row.estimate.value for row in rows}
  for stage in facts["stages"]:
    for kind in ("mean", "sum"):
      lines = (out / f"{stage}_{kind}.txt").read_text().splitlines()
      scores = {name: float(score) for name, score in (line.split(" ") for line in lines)}
      assert list(scores)[:2] == ["room/sample_0_0", "room/sample_0_1"]
      wins = [
        scores[f"{task}/sample_{i}_0"] > scores[f"{task}/sample_{i}_1"]
        for task in ("speaker", "room")
        for i in range(2)
      ]
      over = "the mean" if kind == "mean" else "the sum"
      assert sum(wins) / 4 == accuracy[f"accuracy by {over} over tokens, {stage} stage, all"]


def test_a_bundle_without_likelihoods_is_an_error(miniature_bundle, tmp_path):
  tokenizers = dataclasses.replace(miniature_bundle, stages={})
  with pytest.raises(DataError, match="has no stage with likelihoods"):
    likelihoods.export_likelihoods(tokenizers, [], lambda _: melody(1.0), str(tmp_path))
