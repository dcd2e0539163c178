import dataclasses
import json

import jax
import numpy as np
import pytest
from flax.core import meta

from audiolm_jax.core import configs
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.detection.classifier import ClassifierConfig
from audiolm_jax.trainables.detector import DetectorTrainable, DetectorTrainingConfig
from tests.conftest import assert_bfloat16_products_hardly_turn, float32_products


def test_the_detector_learns_to_separate_two_kinds_of_audio(detector_run):
  trainable, batch, state, first, last = detector_run
  assert first["loss"] > 0.5
  assert last["loss"] < 0.1 and last["accuracy"] == 1.0
  held_out = trainable.eval_step(state, batch)
  assert held_out["accuracy"] == 1.0 and held_out["weight"] == 8


def test_gradients_reach_every_parameter(detector_run):
  def loss(params):
    return detector_run.trainable._loss(params, detector_run.batch, None)[0]

  gradients = jax.grad(loss)(detector_run.state.params)
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients))


def test_bfloat16_products_change_the_gradient_little(detector_run):
  @jax.jit
  def gradients(params):
    return jax.grad(lambda p: detector_run.trainable._loss(p, detector_run.batch, None)[0])(params)

  fresh = jax.jit(detector_run.trainable.init)(jax.random.key(2), detector_run.batch)
  params = meta.unbox(fresh.params)
  assert_bfloat16_products_hardly_turn(gradients, params, cosine=0.98)
  # Two in the front end and three in the head.
  assert len(float32_products(gradients, params)) == 2 + 3


def test_a_bad_batch_is_skipped_and_counted(detector_run):
  trainable, batch, state = detector_run[:3]
  bad = batch | {"waveform": np.full_like(batch["waveform"], np.nan)}
  after, metrics = trainable.train_step(state, bad, jax.random.key(0))
  assert metrics["skipped"] == 1 and after.step == state.step + 1
  jax.tree.map(np.testing.assert_array_equal, after.params, state.params)


def test_inference_uses_the_averaged_parameters(detector_run):
  state = detector_run.state
  inference = detector_run.trainable.inference_params(state)
  jax.tree.map(np.testing.assert_array_equal, inference, state.ema_params)
  assert any(
    np.abs(a - b).max() > 0
    for a, b in zip(jax.tree.leaves(inference), jax.tree.leaves(state.params), strict=True)
  )


def test_microbatches_give_the_gradient_of_the_whole(detector_run):
  trainable, batch = detector_run[:2]
  parts = DetectorTrainable(dataclasses.replace(trainable.config, microbatches=2))
  state = meta.unbox(parts.init(jax.random.key(0), batch))
  whole, _ = trainable.train_step(state, batch, jax.random.key(1))
  split, _ = parts.train_step(state, batch, jax.random.key(1))
  for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(split.params), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_run_starts_from_the_detector_of_a_bundle(miniature_bundle, detector, detector_run):
  trainable = detector_run.trainable
  bundle = dataclasses.replace(miniature_bundle, detector=detector)
  params = trainable.component_params(bundle.component("detector"), "the detector")
  state = trainable.with_params(detector_run.state, params)
  assert state.step == 0
  jax.tree.map(np.testing.assert_array_equal, trainable.inference_params(state), params)
  other = dataclasses.replace(detector, config=ClassifierConfig())
  with pytest.raises(ConfigError, match="channels"):
    trainable.component_params(other, "the detector")
  assert trainable.run_params(trainable.config, params, "the run a") is params
  with pytest.raises(ConfigError, match="channels"):
    trainable.run_params(DetectorTrainingConfig(), params, "the run a")


def test_configurations_survive_json_and_have_two_classes():
  config = DetectorTrainingConfig()
  plain = json.loads(json.dumps(configs.to_dict(config)))
  assert configs.from_dict(DetectorTrainingConfig, plain) == config
  with pytest.raises(ConfigError, match="num_classes is 3"):
    DetectorTrainingConfig(ClassifierConfig(num_classes=3))


def test_amounts_are_the_seconds_without_padding(detector_run):
  assert detector_run.trainable.amounts(detector_run.batch) == {"audio_seconds": 4.0}
