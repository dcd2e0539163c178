import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from audiolm_jax.data.token_shards import TokenClip
from audiolm_jax.evaluation import likelihood
from audiolm_jax.lm import stages
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.lm.stage import Stage
from audiolm_jax.lm.transformer import Transformer

SIZES = {"num_clusters": 8, "codebook_size": 4, "crop_seconds": 1.0}
SPECS = [
  stages.semantic_stage(**SIZES),
  stages.coarse_stage(**SIZES, num_target_quantizers=2),
  stages.fine_stage(**SIZES, num_source_quantizers=2, num_target_quantizers=2),
]
CONFIG = TransformerConfig(num_layers=1, dim=16, num_heads=2, mlp_dim=16, num_frame_embeddings=64)


def make_stage(spec: stages.AutoregressiveSpec) -> Stage:
  model = Transformer(CONFIG, spec.layout.vocab_size)
  tokens = jnp.zeros((1, 4), jnp.int32)
  params = meta.unbox(jax.jit(model.init)(jax.random.key(0), tokens, tokens)["params"])
  params = jax.tree.map(lambda a: a + 0.3 * jax.random.normal(jax.random.key(1), a.shape), params)
  return Stage(spec, CONFIG, params)


def make_clip(seed: int, seconds: float) -> TokenClip:
  rng = np.random.default_rng(seed)
  semantic = rng.integers(0, 8, round(25 * seconds)).astype(np.uint16)
  codes = rng.integers(0, 4, (round(50 * seconds), 4)).astype(np.uint16)
  return TokenClip(f"clip{seed}", {"semantic": semantic, "codes": codes})


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_scores_equal_the_masked_softmax_of_teacher_forced_logits(spec):
  stage, clip = make_stage(spec), make_clip(0, 1.0)
  crop = next(likelihood.crops(spec, clip))
  nats, hits = likelihood.stage_scorer(stage)(*crop)
  features = stages.stage_features(spec, *crop)
  model = Transformer(CONFIG, spec.layout.vocab_size)
  logits = model.apply(
    {"params": stage.params},
    features["decoder_input_tokens"][None],
    features["decoder_frame_ids"][None],
  )[0]
  expected, right = [], []
  for i, position in enumerate(np.flatnonzero(features["decoder_loss_weights"])):
    legal = spec.layout.legal_range(i, spec.first_target_quantizer, spec.num_target_quantizers)
    allowed = np.asarray(logits[position, legal.start : legal.start + legal.size], np.float64)
    target = features["decoder_target_tokens"][position] - legal.start
    expected.append(np.log(np.exp(allowed).sum()) - allowed[target])
    right.append(allowed.argmax() == target)
  np.testing.assert_allclose(nats, expected, atol=1e-4)
  np.testing.assert_array_equal(hits, right)


def test_the_report_weighs_tokens_equally_and_compares_with_the_tables():
  spec = SPECS[1]
  stage, valid = make_stage(spec), [make_clip(1, 2.6), make_clip(2, 1.0)]
  report = likelihood.evaluate_stage(stage, [make_clip(3, 20.0)], valid)
  score = likelihood.stage_scorer(stage)
  nats = np.concatenate(
    [score(*crop)[0] for clip in valid for crop in likelihood.crops(spec, clip)]
  )
  assert report.nats.value == pytest.approx(nats.mean())
  assert report.nats.n == 2
  assert np.mean(report.quantizer_nats) == pytest.approx(nats.mean())
  assert report.tables.num_targets == len(nats) == 360
  assert report.tables.uniform == pytest.approx(np.log(4))
  best = min(report.tables.bigram, report.tables.bigram_backoff)
  assert report.below_bigram.value == pytest.approx(1 - nats.mean() / best)


def test_crops_are_aligned_and_a_short_rest_is_dropped():
  pieces = list(likelihood.crops(SPECS[1], make_clip(0, 2.6)))
  assert [(len(s), len(c)) for s, c in pieces] == [(25, 50), (25, 50), (15, 30)]  # pyright: ignore[reportArgumentType]: it is not None
  assert len(list(likelihood.crops(SPECS[1], make_clip(0, 2.4)))) == 2


def test_clips_too_short_or_without_the_tokens_are_refused():
  with pytest.raises(ValueError, match="minimum length of a crop"):
    likelihood.evaluate_stage(make_stage(SPECS[0]), [make_clip(0, 2)], [make_clip(1, 0.2)])
  with pytest.raises(ValueError, match="has no tokens of a kind"):
    next(likelihood.crops(SPECS[0], TokenClip("x", {"codes": make_clip(0, 1).streams["codes"]})))
