"""The loss of a stage and its updates."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers_lm import CONFIG, SPECS, random_batch, random_clip, random_params

from audiolm_jax.core import configs
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.lm import stages
from audiolm_jax.lm.loss import stage_loss
from audiolm_jax.lm.transformer import Transformer
from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig
from audiolm_jax.training.optimizers import OptimizerConfig
from tests.conftest import assert_bfloat16_products_hardly_turn, float32_products

ACOUSTIC_ONLY = dataclasses.replace(SPECS["coarse"], source="none")
ALL_SPECS = SPECS | {"acoustic_only": ACOUSTIC_ONLY}
PLAIN = dataclasses.replace(CONFIG, dropout_rate=0.0)


def model_and_params(spec, config=PLAIN):
  return Transformer(config, spec.layout.vocab_size), random_params(config, spec)


def trainable(spec, transformer=PLAIN, **values):
  optimizer = OptimizerConfig(name="adam", learning_rate=1e-2, clip_norm=1.0)
  return StageTrainable(StageTrainingConfig(spec, transformer, optimizer, **values))


def fresh_state(model, batch):
  return nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), batch))


def loss_and_metrics(spec, model, params, batch, **values):
  return jax.jit(lambda p, b: stage_loss(spec, model, p, b, **values))(params, batch)


def loss_and_grads(spec, model, params, batch):
  return jax.jit(jax.value_and_grad(lambda p, b: stage_loss(spec, model, p, b)[0]))(params, batch)


@pytest.mark.parametrize("name", ALL_SPECS)
def test_loss_is_cross_entropy_over_legal_ids_at_targets(name):
  spec = ALL_SPECS[name]
  model, params = model_and_params(spec)
  batch = random_batch(spec)
  features = batch["decoder_input_tokens"], batch["decoder_frame_ids"]
  logits = np.asarray(jax.jit(model.apply)({"params": params}, *features))
  nats, hits, by_level = [], [], {}
  for row in range(len(logits)):
    places = np.flatnonzero(batch["decoder_loss_weights"][row])
    for position, place in enumerate(places):
      start, size = spec.layout.legal_range(
        position, spec.first_target_quantizer, spec.num_target_quantizers
      )
      legal = logits[row, place, start : start + size]
      label = batch["decoder_target_tokens"][row, place] - start
      assert 0 <= label < size
      nats.append(np.log(np.exp(legal - legal.max()).sum()) + legal.max() - legal[label])
      hits.append(legal.argmax() == label)
      if spec.num_target_quantizers:
        level = spec.first_target_quantizer + position % spec.num_target_quantizers
        by_level.setdefault(f"loss_quantizer_{level}", []).append(nats[-1])
  loss, metrics = loss_and_metrics(spec, model, params, batch)
  np.testing.assert_allclose(loss, np.mean(nats), rtol=1e-5)
  np.testing.assert_allclose(metrics["accuracy"], np.mean(hits), rtol=1e-5)
  assert metrics["weight"] == len(nats)
  assert set(metrics) - {"loss", "accuracy", "weight"} == set(by_level)
  for level, values in by_level.items():
    np.testing.assert_allclose(metrics[level], np.mean(values), rtol=1e-5)


@pytest.mark.parametrize("name", ["coarse", "fine"])
def test_source_targets_do_not_affect_the_loss(name):
  spec = SPECS[name]
  model, params = model_and_params(spec)
  batch = random_batch(spec)
  loss, grads = loss_and_grads(spec, model, params, batch)
  source = (batch["decoder_loss_weights"] == 0) & (batch["decoder_target_tokens"] > 3)
  other = dict(batch, decoder_target_tokens=np.where(source, 4, batch["decoder_target_tokens"]))
  other_loss, other_grads = loss_and_grads(spec, model, params, other)
  assert loss == other_loss
  jax.tree.map(np.testing.assert_array_equal, grads, other_grads)
  # Output rows of ids that are never a target are not trained.
  first = spec.layout.quantizer_range(spec.first_target_quantizer).start
  assert not np.asarray(grads["head"][:first]).any()
  assert np.asarray(grads["head"][first:]).any()


@pytest.mark.parametrize("name", SPECS)
def test_padding_does_not_affect_the_loss(name):
  spec = SPECS[name]
  model, params = model_and_params(spec)
  whole = random_batch(spec, rows=2, shortest=0.5)
  short = {k: v[:1] for k, v in whole.items()}
  padding = dict(short, decoder_loss_weights=0 * short["decoder_loss_weights"])
  both = {k: np.concatenate([short[k], padding[k]]) for k in short}
  noisy = dict(both)
  noisy["decoder_input_tokens"] = both["decoder_input_tokens"].copy()
  end = int(np.flatnonzero(short["decoder_loss_weights"][0])[-1]) + 1
  noisy["decoder_input_tokens"][:, end:] = 5
  loss = loss_and_metrics(spec, model, params, short)[0]
  np.testing.assert_allclose(loss_and_metrics(spec, model, params, noisy)[0], loss, rtol=1e-5)


@pytest.mark.parametrize("name", ALL_SPECS)
def test_gradients_are_finite_and_reach_every_layer(name):
  spec = ALL_SPECS[name]
  config = dataclasses.replace(PLAIN, num_frame_embeddings=spec.max_frame_id + 1)
  model, params = model_and_params(spec, config)
  _, grads = loss_and_grads(spec, model, params, random_batch(spec))
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    assert np.isfinite(leaf).all(), path
    assert np.asarray(leaf).any(), path


@pytest.mark.parametrize("name", ["semantic", "coarse"])
def test_bfloat16_products_change_the_gradient_little(name):
  spec = ALL_SPECS[name]
  # A smooth activation: rounding near the kink of a ReLU can change the gradient much.
  config = dataclasses.replace(
    PLAIN, feed_forward="gated_gelu", scan_layers=name == "semantic", remat="minimal"
  )
  model = trainable(spec, config)
  batch = random_batch(spec)
  state = fresh_state(model, batch)

  @jax.jit
  def gradients(params, batch):
    return jax.grad(lambda p: stage_loss(spec, spec.model(config), p, batch)[0])(params)

  assert_bfloat16_products_hardly_turn(gradients, state.params, batch)
  assert not float32_products(gradients, state.params, batch)


def test_z_loss_is_added_but_not_reported():
  spec = SPECS["coarse"]
  model, params = model_and_params(spec)
  batch = random_batch(spec)
  plain, plain_metrics = loss_and_metrics(spec, model, params, batch)
  more, metrics = loss_and_metrics(spec, model, params, batch, z_loss=0.1)
  assert more > plain
  assert metrics["loss"] == plain_metrics["loss"] == plain


def test_a_shorter_batch_than_the_crop_has_the_same_loss():
  spec = SPECS["coarse"]
  model, params = model_and_params(spec)
  batch = random_batch(spec, rows=1, shortest=0.5)
  features = stages.stage_features(spec, *random_clip(spec, 1.0))
  batch = {k: v[None] for k, v in features.items()}
  end = int(np.flatnonzero(features["decoder_loss_weights"])[-1]) + 1
  cut = {k: v[:, :end] for k, v in batch.items()}
  expected = loss_and_metrics(spec, model, params, batch)[0]
  np.testing.assert_allclose(loss_and_metrics(spec, model, params, cut)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_one_batch_can_be_overfitted(name):
  spec = ALL_SPECS[name]
  config = dataclasses.replace(
    PLAIN, dim=32, mlp_dim=64, num_frame_embeddings=spec.max_frame_id + 1
  )
  # Without a source, two clips cannot be distinguished before their first token.
  rows = 1 if spec.source is stages.Source.NONE else 2
  model, batch = trainable(spec, config), random_batch(spec, rows=rows, shortest=1.0)
  state = fresh_state(model, batch)
  step = jax.jit(model.train_step)
  first = jax.jit(model.eval_step)(state, batch)
  for i in range(120):
    state, metrics = step(state, batch, jax.random.key(i))
  assert first["loss"] > 1.5
  assert metrics["loss"] < 0.1
  assert metrics["accuracy"] > 0.98
  assert int(state.step) == 120


def test_a_non_finite_batch_changes_only_the_step():
  spec = SPECS["coarse"]
  model, batch = trainable(spec), random_batch(spec)
  state = fresh_state(model, batch)
  broken = dict(batch, decoder_loss_weights=batch["decoder_loss_weights"] * np.nan)
  step = jax.jit(model.train_step)
  after, metrics = step(state, broken, jax.random.key(0))
  assert metrics["skipped"] == 1
  jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
  after, metrics = step(state, batch, jax.random.key(0))
  assert metrics["skipped"] == 0


def test_dropout_applies_in_training_and_not_in_evaluation():
  spec = SPECS["semantic"]
  model, batch = trainable(spec, dataclasses.replace(CONFIG, dropout_rate=0.5)), random_batch(spec)
  state = fresh_state(model, batch)
  step = jax.jit(model.train_step)
  losses = [step(state, batch, jax.random.key(i))[1]["loss"] for i in range(2)]
  assert losses[0] != losses[1]
  plain = Transformer(PLAIN, spec.layout.vocab_size)
  expected = loss_and_metrics(spec, plain, state.params, batch)[0]
  np.testing.assert_allclose(jax.jit(model.eval_step)(state, batch)["loss"], expected, rtol=1e-6)


@pytest.mark.parametrize("scan_layers", [False, True])
def test_inference_parameters_are_the_averaged_ones_unstacked(scan_layers):
  spec = SPECS["semantic"]
  config = dataclasses.replace(PLAIN, scan_layers=scan_layers)
  model, batch = trainable(spec, config, ema_decay=0.9), random_batch(spec)
  state = fresh_state(model, batch)
  step = jax.jit(model.train_step)
  for i in range(3):
    state, _ = step(state, batch, jax.random.key(i))
  params = model.inference_params(state)
  assert {"layers_0", "layers_1"} <= set(params)
  assert not np.allclose(params["head"], state.params["head"])
  plain = Transformer(PLAIN, spec.layout.vocab_size)
  loss = loss_and_metrics(spec, plain, params, batch)[0]
  np.testing.assert_allclose(loss, jax.jit(model.eval_step)(state, batch)["loss"], rtol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_the_component_has_the_name_of_the_stage_and_config_survives_json(name):
  model = trainable(SPECS[name])
  assert model.component == f"{name}_stage"
  again = configs.from_dict(StageTrainingConfig, configs.to_dict(model.config))
  assert again == model.config


def test_too_few_frame_embeddings_are_refused():
  config = dataclasses.replace(CONFIG, num_frame_embeddings=20)
  with pytest.raises(ConfigError, match="num_frame_embeddings 20 is less than the 21"):
    StageTrainingConfig(SPECS["coarse"], config)


def test_initial_loss_is_that_of_a_uniform_guess():
  spec = SPECS["coarse"]
  model, batch = trainable(spec), random_batch(spec)
  loss = jax.jit(model.eval_step)(fresh_state(model, batch), batch)["loss"]
  np.testing.assert_allclose(loss, jnp.log(spec.codebook_size), rtol=0.05)


def test_amounts_are_the_tokens_without_padding():
  spec = SPECS["coarse"]
  batch = random_batch(spec, rows=2, shortest=0.5)
  lengths = [len(np.trim_zeros(row, "b")) for row in batch["decoder_target_tokens"]]
  assert lengths[0] < lengths[1]
  assert trainable(spec).amounts(batch) == {"tokens": sum(lengths)}


def test_the_gradient_norm_is_that_before_clipping():
  spec = SPECS["coarse"]
  model, batch = trainable(spec), random_batch(spec)
  state = fresh_state(model, batch)
  _, metrics = jax.jit(model.train_step)(state, batch, jax.random.key(0))
  _, grads = loss_and_grads(spec, Transformer(PLAIN, spec.layout.vocab_size), state.params, batch)
  np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(grads), rtol=1e-5)


def test_microbatches_equal_the_update_of_the_whole_batch():
  spec = SPECS["coarse"]
  batch = random_batch(spec, rows=6, shortest=0.3)
  weights = np.random.default_rng(0).uniform(0, 3, (6, 1)).astype(np.float32)
  batch |= {"decoder_loss_weights": batch["decoder_loss_weights"] * weights}
  sgd = OptimizerConfig(name="sgd", learning_rate=1.0, b1=0.0)
  found = {}
  for count in (1, 2, 6):
    config = StageTrainingConfig(spec, PLAIN, sgd, z_loss=0.1, microbatches=count)
    model = StageTrainable(config)
    state = fresh_state(model, batch)
    found[count] = jax.jit(model.train_step)(state, batch, jax.random.key(0))
  state, metrics = found.pop(1)
  for other, other_metrics in found.values():
    assert set(other_metrics) == set(metrics)
    for metric, value in metrics.items():
      np.testing.assert_allclose(other_metrics[metric], value, rtol=1e-5, err_msg=metric)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
      other.params,
      state.params,
    )


def test_a_batch_that_cannot_be_split_is_refused():
  model = trainable(SPECS["coarse"], microbatches=2)
  batch = random_batch(SPECS["coarse"], rows=3)
  with pytest.raises(
    ConfigError, match="batch of 3 cannot be split into 2 equal microbatches; make"
  ):
    jax.eval_shape(model.train_step, fresh_state(model, batch), batch, jax.random.key(0))
