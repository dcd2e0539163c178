import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from audiolm_jax.data.token_shards import TokenClip
from audiolm_jax.evaluation.suites.tokens import tokens_suite
from audiolm_jax.lm import stages
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.lm.stage import Stage
from audiolm_jax.lm.transformer import Transformer

SIZES = {"num_clusters": 8, "codebook_size": 4, "crop_seconds": 1.0}
CONFIG = TransformerConfig(num_layers=1, dim=16, num_heads=2, mlp_dim=16, num_frame_embeddings=64)


def uniform_stage(spec):
  """Every legal token has the same probability."""
  model = Transformer(CONFIG, spec.layout.vocab_size)
  tokens = jnp.zeros((1, 4), jnp.int32)
  params = meta.unbox(jax.jit(model.init)(jax.random.key(0), tokens, tokens)["params"])
  return Stage(spec, CONFIG, jax.tree.map(jnp.zeros_like, params))


def clip(name, semantic, seed):
  codes = np.random.default_rng(seed).integers(0, 4, (2 * len(semantic), 2))
  return TokenClip(name, {"semantic": np.asarray(semantic), "codes": codes})


# Of 25 tokens in a second 5 are left in the first clip and all 25 in the second.
CLIPS = [
  clip("slow", np.repeat([1, 5, 2, 7, 0], 5), seed=0),
  clip("quick", np.arange(25) % 8, seed=1),
]


def bit_rates(spec, clips):
  rows = {row.figure: row for row in tokens_suite([uniform_stage(spec)], clips, clips).rows}
  return (
    rows[f"bits per second by the stage's probabilities, {spec.name}"],
    rows[f"bits per second of the tokens as they are, {spec.name}"],
  )


def test_a_uniform_stage_takes_the_bits_of_the_tokens_without_a_model():
  modelled, raw = bit_rates(stages.coarse_stage(**SIZES, num_target_quantizers=2), CLIPS)
  assert raw.estimate.value == pytest.approx(50 * 2 * 2)
  assert modelled.estimate.value == pytest.approx(50 * 2 * 2, rel=1e-5)
  assert (modelled.estimate.n, raw.estimate.n) == (2, 2)


def test_collapsed_tokens_count_as_often_as_they_remain_in_the_clips():
  spec = stages.semantic_stage(**SIZES)
  for clips, left in ((CLIPS[:1], 5), (CLIPS, 15)):
    modelled, raw = bit_rates(spec, clips)
    assert modelled.estimate.value == pytest.approx(left * 3, rel=1e-5)
    assert raw.estimate.value == pytest.approx(left * 3)
    assert raw.note == f"{left} tokens per second"


def test_bit_rate_is_nats_per_token_times_tokens_per_second():
  stage = uniform_stage(stages.coarse_stage(**SIZES, num_target_quantizers=2))
  params = jax.tree.map(
    lambda a: a + 0.3 * jax.random.normal(jax.random.key(1), a.shape), stage.params
  )
  result = tokens_suite([Stage(stage.spec, CONFIG, params)], CLIPS, CLIPS)
  rows = {row.figure: row.estimate.value for row in result.rows}
  nats = rows["nats per token, coarse"]
  assert rows["bits per second by the stage's probabilities, coarse"] == pytest.approx(
    nats * 100 / np.log(2)
  )
  assert nats > 1.01 * np.log(4)
