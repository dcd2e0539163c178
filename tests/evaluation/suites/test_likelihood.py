import numpy as np
import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.data.token_shards import TokenClip
from audiolm_jax.evaluation import likelihood
from audiolm_jax.evaluation.pairs import SoundPair
from audiolm_jax.evaluation.suites import likelihood as suite
from audiolm_jax.lm.stages import stage_features
from tests.conftest import melody


def test_scores_are_those_of_teacher_forcing_crop_by_crop(miniature_bundle):
  sound = melody(3.3)  # longer than the crops of all stages
  scorers = {
    name: (stage.spec, likelihood.stage_scorer(stage))
    for name, stage in miniature_bundle.stages.items()
  }
  found = suite.sound_scorer(miniature_bundle, list(scorers))(sound)
  clip = TokenClip(
    "",
    {
      "semantic": np.asarray(miniature_bundle.semantic.tokenize_long(sound)),
      "codes": np.asarray(miniature_bundle.codec.encode_long(sound)),
    },
    "valid",
    None,
  )
  for name, (spec, score) in scorers.items():
    cuts = list(likelihood.crops(spec, clip, 0.0))
    assert len(cuts) == int(np.ceil(3.3 / spec.crop_seconds - 1e-6))
    targets = sum(stage_features(spec, *cut)["decoder_loss_weights"].sum() for cut in cuts)
    assert found[name].tokens == targets
    assert found[name].total == pytest.approx(-sum(score(*cut)[0].sum() for cut in cuts))
    assert found[name].mean == pytest.approx(found[name].total / targets)


def test_accuracy_counts_ties_half_and_voices_together(miniature_bundle):
  long, short = "long", "short"
  sounds = {long: melody(1.5, seed=1), short: melody(0.3, seed=2)}
  same = SoundPair("tie", ("a",), long, long)
  # Without normalisation the shorter one is always likelier.
  brief = SoundPair("brief", ("b",), short, long)
  again = brief._replace(good=long, bad=short)
  result = suite.likelihood_suite(
    miniature_bundle, [same, brief, again], sounds.__getitem__, ["coarse"]
  )
  values = {row.figure: row.estimate for row in result.rows}
  summed = "accuracy by the sum over tokens, coarse stage, "
  assert values[summed + "a"].value == 0.5 and values[summed + "b"].value == 0.5
  assert values[summed + "all"].value == 0.5 and values[summed + "all"].n == 2
  assert len(result.rows) == 2 * 3
  with pytest.raises(DataError, match="no acoustic stage"):
    suite.likelihood_suite(miniature_bundle, [same], sounds.__getitem__, ["acoustic"])
