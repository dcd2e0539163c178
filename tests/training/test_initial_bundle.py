"""Runs that begin with what a bundle has learned."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_trainable as toy
from flax.core import meta

from audiolm_jax.bundles import save_bundle
from audiolm_jax.core.errors import BundleError, ConfigError
from audiolm_jax.trainables.codec import CodecTrainable, CodecTrainingConfig
from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig
from audiolm_jax.training import checkpoints

WAVEFORM = {"waveform": np.zeros((2, 3200), np.float32)}
TOKENS = {"decoder_input_tokens": np.zeros((2, 8), np.int32)}


def codec_trainable(bundle, **values):
  model = dataclasses.replace(bundle.codec.config, **values)
  return CodecTrainable(CodecTrainingConfig(model=model, kmeans_vectors=64))


def stage_trainable(bundle, **values):
  stage = bundle.stages["coarse"]
  config = dataclasses.replace(stage.config, **values)
  return StageTrainable(StageTrainingConfig(stage.spec, config, ema_decay=0.9))


@pytest.mark.parametrize(
  ("make", "batch"),
  [
    (codec_trainable, WAVEFORM),
    (stage_trainable, TOKENS),
    (lambda b: stage_trainable(b, scan_layers=True, dropout_rate=0.1), TOKENS),
  ],
)
def test_a_state_goes_on_from_the_parameters_of_a_bundle(make, batch, miniature_bundle):
  trainable = make(miniature_bundle)
  params = trainable.bundled_params(miniature_bundle)

  @jax.jit
  def begin(key, params):
    fresh = meta.unbox(trainable.init(key, batch))
    return fresh, trainable.with_params(fresh, params)

  fresh, state = begin(jax.random.key(0), params)
  assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, fresh)
  assert int(state.step) == 0
  jax.tree.map(np.testing.assert_array_equal, trainable.inference_params(state), params)


def test_a_codec_that_goes_on_keeps_its_codebooks(miniature_bundle):
  trainable = codec_trainable(miniature_bundle)
  fresh = jax.eval_shape(lambda key: meta.unbox(trainable.init(key, WAVEFORM)), jax.random.key(0))
  fresh = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), fresh)
  state = trainable.with_params(fresh, miniature_bundle.codec.params)
  means = state.quantizer.sums / state.quantizer.counts[..., None]
  np.testing.assert_allclose(means, miniature_bundle.codec.params["codebooks"], rtol=1e-6)


def test_another_shape_is_refused_with_the_fields_that_differ(miniature_bundle):
  with pytest.raises(ConfigError, match=r"codec of miniature.*decoder_channels was 2, is 4"):
    codec_trainable(miniature_bundle, decoder_channels=4).bundled_params(miniature_bundle)
  with pytest.raises(ConfigError, match=r"coarse stage of miniature.*mlp_dim was 32, is 64"):
    stage_trainable(miniature_bundle, mlp_dim=64).bundled_params(miniature_bundle)
  without = dataclasses.replace(miniature_bundle, stages={})
  with pytest.raises(ConfigError, match="miniature has no coarse stage"):
    stage_trainable(miniature_bundle).bundled_params(without)


class Continuing(toy.ToyTrainable):
  """Takes a few numbers of a bundle for its own parameters."""

  def bundled_params(self, bundle):
    first = bundle.codec.params["codebooks"].ravel()
    shapes = jax.eval_shape(
      lambda key: meta.unbox(self.module.init(key, jnp.zeros((1, self.config.embed)))["params"]),
      jax.random.key(0),
    )
    return jax.tree.map(lambda x: jnp.resize(first, x.shape), shapes)

  def with_params(self, state, params):
    return dataclasses.replace(state, params=params, ema_params=jax.tree.map(jnp.copy, params))


def test_a_run_begins_with_its_bundle_and_then_no_longer_needs_it(miniature_bundle, tmp_path):
  bundle = save_bundle(miniature_bundle, tmp_path / "bundle")
  run = tmp_path / "run"
  toy.run(run, model=Continuing(), initial_bundle=bundle, total_steps=1)
  begun = Continuing().bundled_params(miniature_bundle)
  after = checkpoints.load_inference_params(run)[2]
  difference = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), after, begun)
  assert 0 < max(jax.tree.leaves(difference)) < 0.02  # one step with a rate of 0.01
  assert "beginning with that of the bundle" in (run / "log.txt").read_text()

  bundle.rename(tmp_path / "elsewhere")
  assert toy.run(run, model=Continuing(), initial_bundle=bundle, total_steps=2).finished
  with pytest.raises(BundleError, match="no bundle"):
    toy.run(tmp_path / "other", model=Continuing(), initial_bundle=bundle)


def test_what_cannot_begin_from_a_bundle_says_so(miniature_bundle, tmp_path):
  bundle = save_bundle(miniature_bundle, tmp_path / "bundle")
  with pytest.raises(ConfigError, match="training of toy cannot begin from a bundle"):
    toy.run(tmp_path / "run", initial_bundle=bundle)
