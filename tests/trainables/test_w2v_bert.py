import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax.core import configs
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.semantic.augment import AugmentConfig
from audiolm_jax.trainables.w2v_bert import SemanticTrainable, W2vBertConfig
from audiolm_jax.training.optimizers import OptimizerConfig
from tests import published_programs
from tests.conftest import assert_bfloat16_products_hardly_turn, float32_products


@pytest.fixture
def batch(speechlike):
  waveform = np.stack([speechlike(16_000, seed) for seed in range(2)])
  waveform[1, 12_000:] = 0.0
  return {"waveform": waveform, "length": np.array([16_000, 12_000], np.int32)}


def start(config, batch):
  trainable = SemanticTrainable(config)
  return trainable, nn.unbox(jax.jit(trainable.init)(jax.random.key(0), batch))


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


def abstract_state(config):
  batch = {
    "waveform": jax.ShapeDtypeStruct((2, 64_000), jnp.float32),
    "length": jax.ShapeDtypeStruct((2,), jnp.int32),
  }
  return nn.unbox(jax.eval_shape(SemanticTrainable(config).init, jax.random.key(0), batch))


def published(size):
  """Returns the configuration of a gin file."""
  return published_programs.settings(f"semantic_encoder_{size}")["model"].config


def test_xl_has_the_papers_size_and_initialises_abstractly():
  params = abstract_state(published("xl")).params
  assert 0.55e9 < count(params) < 0.65e9
  assert count(params) == 587_869_056
  assert count(params["encoder"]) == 582_621_056
  assert published("xl").default_layer == 12 + 7  # layer 7 of the masked-prediction module


def test_small_and_tiny_have_the_sizes_that_their_gin_files_state():
  assert round(count(abstract_state(published("small")).params) / 1e6) == 35
  assert count(abstract_state(published("tiny")).params["encoder"]) <= 2_500_000


@pytest.mark.parametrize("augmented", [False, True])
def test_gradients_are_finite_and_reach_every_parameter(w2v_config, batch, augmented):
  if augmented:
    w2v_config = dataclasses.replace(w2v_config, augment=AugmentConfig(), unmasked_weight=0.5)
  trainable, state = start(w2v_config, batch)

  def loss(params):
    return trainable._loss(params, batch, jax.random.key(1), jnp.float32(1.0))[0]

  grads = jax.jit(jax.grad(loss))(state.params)
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(leaf).all(), path
    # A bias that is equal for all keys does not change attention weights.
    if "key" not in jax.tree_util.keystr(path):
      assert jnp.abs(leaf).max() > 0, path


def test_bfloat16_products_change_the_gradient_little(w2v_config, batch):
  trainable, state = start(w2v_config, batch)

  @jax.jit
  def gradients(params):
    return jax.grad(lambda p: trainable._loss(p, batch, jax.random.key(1), jnp.float32(1.0))[0])(
      params
    )

  assert_bfloat16_products_hardly_turn(gradients, state.params)
  # Two in the front end, and three each in the quantizer's scores and in each layer's keys of
  # relative positions.
  assert len(float32_products(gradients, state.params)) == 2 + 3 + 3 * 3


def test_loss_falls_on_one_batch_parameters_are_averaged_and_a_bad_batch_is_skipped(
  w2v_config, batch
):
  trainable, state = start(dataclasses.replace(w2v_config, ema_decay=0.9), batch)
  step = jax.jit(trainable.train_step)
  losses = []
  for index in range(200):
    state, metrics = step(state, batch, jax.random.fold_in(jax.random.key(1), index))
    losses.append(
      [float(metrics[k]) for k in ("loss", "contrastive_loss", "masked_prediction_loss")]
    )
  first, last = np.mean(losses[:5], axis=0), np.mean(losses[-5:], axis=0)
  assert (last < 0.75 * first).all()
  assert int(state.step) == 200

  params = trainable.inference_params(state)
  jax.tree.map(np.testing.assert_array_equal, params, state.ema_params)
  moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), params, state.params)
  assert max(jax.tree.leaves(moved)) > 0

  bad = {**batch, "waveform": batch["waveform"] * np.float32(np.nan)}
  after, metrics = step(state, bad, jax.random.key(0))
  assert metrics["skipped"] == 1 and int(after.step) == 201
  jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_metrics_include_both_losses_and_codebook_collapse(w2v_config, batch):
  trainable, state = start(w2v_config, batch)
  metrics = jax.jit(trainable.eval_step)(state, batch)
  for name in ("contrastive_loss", "masked_prediction_loss", "diversity_loss", "weight"):
    assert np.isfinite(metrics[name])
  assert metrics["codebook_perplexity"] > 1 and metrics["codebook_collapsed"] == 0
  flat = jax.tree.map(jnp.zeros_like, state.params["quantizer"])
  collapsed = dataclasses.replace(state, params={**state.params, "quantizer": flat})
  strict = SemanticTrainable(dataclasses.replace(w2v_config, collapse_fraction=0.2))
  metrics = jax.jit(strict.eval_step)(collapsed, batch)
  assert metrics["codebook_perplexity"] < 1.01 and metrics["codebook_collapsed"] == 1


def test_evaluation_is_deterministic_and_ignores_padding(w2v_config, batch):
  trainable, state = start(w2v_config, batch)
  noise = np.random.default_rng(0).standard_normal(4_000).astype(np.float32)
  other = {**batch, "waveform": batch["waveform"].copy()}
  other["waveform"][1, 12_000:] = noise
  evaluate = jax.jit(trainable.eval_step)
  assert evaluate(state, batch) == evaluate(state, other)


def test_configurations_survive_json():
  for config in map(published, ("xl", "small", "tiny")):
    assert configs.from_dict(W2vBertConfig, configs.to_dict(config)) == config


def test_one_stack_is_refused(encoder_config):
  with pytest.raises(ConfigError, match="stacks"):
    W2vBertConfig(encoder=dataclasses.replace(encoder_config, stacks=(3,)))


def test_amounts_are_the_seconds_without_padding(w2v_config, batch):
  assert SemanticTrainable(w2v_config).amounts(batch) == {"audio_seconds": 1.75}


def test_pairs_of_steps_out_of_each_others_context_do_not_count():
  config = published("tiny").encoder
  narrow, wide = (dataclasses.replace(config, left_context=c, right_context=c) for c in (0, 9))
  # 10 steps: 10 pairs against all 100, and 18 more relative keys for each step.
  more = 2 * config.num_layers * config.dim * (2 * (100 - 10) + 10 * 18)
  assert wide.forward_flops(10) - narrow.forward_flops(10) == more


def test_microbatches_are_weighted_by_their_masked_steps(w2v_config, batch):
  sgd = OptimizerConfig(name="sgd", learning_rate=1.0, b1=0.0)
  config = dataclasses.replace(w2v_config, optimizer=sgd)
  trainable, state = start(config, batch)
  step, key = jax.jit(trainable.train_step), jax.random.key(0)
  parts = [
    step(state, {name: value[i : i + 1] for name, value in batch.items()}, k)
    for i, k in enumerate(jax.random.split(key))
  ]
  halved = SemanticTrainable(dataclasses.replace(config, microbatches=2))
  after, metrics = jax.jit(halved.train_step)(state, batch, key)
  weights = np.array([m["weight"] for _, m in parts])
  assert metrics["weight"] == weights.sum() and weights[0] != weights[1]
  losses = [m["loss"] for _, m in parts]
  np.testing.assert_allclose(metrics["loss"], np.average(losses, weights=weights), rtol=1e-5)
  jax.tree.map(
    lambda x, *each: np.testing.assert_allclose(
      x, np.average(each, axis=0, weights=weights), rtol=1e-4, atol=1e-5
    ),
    after.params,
    *(s.params for s, _ in parts),
  )
