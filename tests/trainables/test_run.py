"""Runs that start from the parameters of a bundle."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_trainable as toy
from flax.core import meta

from audiolm_jax.bundles import save_bundle
from audiolm_jax.codec.frame_rate import FrameRateConfig
from audiolm_jax.core.errors import BundleError, ConfigError
from audiolm_jax.semantic.conformer import truncate_params
from audiolm_jax.semantic.features import LogMelConfig
from audiolm_jax.semantic.unit_encoder import UnitEncoderConfig, UnitTokenizer
from audiolm_jax.trainables import run
from audiolm_jax.trainables.codec import CodecTrainable, CodecTrainingConfig
from audiolm_jax.trainables.semantic_tokenizer import unclustered_tokenizer
from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig
from audiolm_jax.trainables.units import UnitTrainable, UnitTrainingConfig
from audiolm_jax.trainables.w2v_bert import SemanticTrainable
from audiolm_jax.training.checkpoints import Checkpoints
from audiolm_jax.training.trainer import TrainConfig

WAVEFORM = {"waveform": np.zeros((2, 3200), np.float32)}
CLIPS = {"waveform": np.zeros((2, 12800), np.float32), "length": np.full(2, 12800, np.int32)}
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
def test_a_state_starts_from_the_parameters_of_a_bundle(make, batch, miniature_bundle):
  trainable = make(miniature_bundle)
  component = miniature_bundle.component(trainable.component)
  params = trainable.component_params(component, "a bundle")

  @jax.jit
  def begin(key, params):
    fresh = meta.unbox(trainable.init(key, batch))
    return fresh, trainable.with_params(fresh, params)

  fresh, state = begin(jax.random.key(0), params)
  assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, fresh)
  assert int(state.step) == 0
  jax.tree.map(np.testing.assert_array_equal, trainable.inference_params(state), params)


def test_a_codec_starts_from_a_run_of_the_same_shape(miniature_bundle):
  trainable, params = codec_trainable(miniature_bundle), miniature_bundle.codec.params
  assert trainable.run_params(trainable.config, params, "the run a") is params
  with pytest.raises(ConfigError, match=r"the run a has another configuration: .*channels"):
    wider = codec_trainable(miniature_bundle, decoder_channels=4)
    wider.run_params(trainable.config, params, "the run a")
  with pytest.raises(ConfigError, match="the run a has a SoundStreamConfig, but the run trains a"):
    CodecTrainable(CodecTrainingConfig(model=FrameRateConfig())).run_params(
      trainable.config, params, "the run a"
    )


def test_w2v_bert_starts_from_the_whole_of_another_run(w2v_config):
  model = SemanticTrainable(w2v_config)
  old, new = (meta.unbox(model.init(jax.random.key(seed), CLIPS)) for seed in (0, 1))
  params = model.inference_params(old)
  state = model.with_params(new, model.run_params(w2v_config, params, "the run a"))
  jax.tree.map(np.testing.assert_array_equal, state.params, old.params)
  larger = dataclasses.replace(w2v_config, codebook_size=2 * w2v_config.codebook_size)
  with pytest.raises(ConfigError, match="codebook_size"):
    SemanticTrainable(larger).run_params(w2v_config, params, "the run a")


@pytest.mark.parametrize("scan_layers", [False, True])
def test_w2v_bert_starts_from_the_blocks_of_a_tokenizer(w2v_config, scan_layers):
  encoder = dataclasses.replace(w2v_config.encoder, scan_layers=scan_layers)
  model = SemanticTrainable(dataclasses.replace(w2v_config, encoder=encoder, ema_decay=0.9))
  old, new = (meta.unbox(model.init(jax.random.key(seed), CLIPS)) for seed in (0, 1))
  layer = sum(encoder.stacks) - 1
  tokenizer = unclustered_tokenizer(model.config, old.params, layer, 64)
  state = model.with_params(new, model.component_params(tokenizer, "a bundle"))

  for params in (state.params, state.ema_params):
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, new.params)
    found = truncate_params(params["encoder"], encoder, layer)
    jax.tree.map(np.testing.assert_array_equal, found, tokenizer.params["encoder"])
    jax.tree.map(
      np.testing.assert_array_equal, _last_block(params, encoder), _last_block(new.params, encoder)
    )
    np.testing.assert_array_equal(params["mask_vector"], new.params["mask_vector"])


def _last_block(params, encoder):
  stack = params["encoder"][f"stacks_{len(encoder.stacks) - 1}"]
  if encoder.scan_layers:
    return jax.tree.map(lambda x: x[-1], stack)
  return stack[f"layer_{encoder.stacks[-1] - 1}"]


def test_a_unit_encoder_starts_from_that_of_a_tokenizer():
  shape = UnitEncoderConfig(LogMelConfig(num_mels=16, hop_length=320), dim=16, dilations=(1,))
  model = UnitTrainable(UnitTrainingConfig(shape, num_labels=5))
  old, new = (meta.unbox(model.init(jax.random.key(seed), CLIPS)) for seed in (0, 1))
  tokenizer = UnitTokenizer.unclustered(shape, old.params["encoder"])
  state = model.with_params(new, model.component_params(tokenizer, "a bundle"))
  jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], old.params["encoder"])
  jax.tree.map(np.testing.assert_array_equal, state.params["head"], new.params["head"])


def test_an_encoder_of_another_kind_or_shape_is_refused(miniature_bundle, w2v_config):
  units = UnitTrainable(UnitTrainingConfig())
  semantic = miniature_bundle.component("units")
  with pytest.raises(ConfigError, match="a bundle has no unit encoder"):
    units.component_params(semantic, "a bundle")
  with pytest.raises(ConfigError, match=r"a bundle has another configuration: .*dim was"):
    larger = dataclasses.replace(semantic.config.encoder, dim=2 * semantic.config.encoder.dim)
    SemanticTrainable(dataclasses.replace(w2v_config, encoder=larger)).component_params(
      semantic, "a bundle"
    )


def test_a_codec_that_starts_from_a_bundle_keeps_its_codebooks(miniature_bundle):
  trainable = codec_trainable(miniature_bundle)
  fresh = jax.eval_shape(lambda key: meta.unbox(trainable.init(key, WAVEFORM)), jax.random.key(0))
  fresh = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), fresh)
  state = trainable.with_params(fresh, miniature_bundle.codec.params)
  means = state.quantizer.sums / state.quantizer.counts[..., None]
  np.testing.assert_allclose(means, miniature_bundle.codec.params["codebooks"], rtol=1e-6)


@pytest.fixture(scope="module")
def folder(miniature_bundle, tmp_path_factory):
  return save_bundle(miniature_bundle, tmp_path_factory.mktemp("bundles") / "bundle")


def test_another_shape_is_refused_with_the_fields_that_differ(miniature_bundle, folder, tmp_path):
  with pytest.raises(ConfigError, match=r"codec of miniature.*decoder_channels was 2, is 4"):
    run.bundled_params(codec_trainable(miniature_bundle, decoder_channels=4), folder)
  with pytest.raises(ConfigError, match=r"coarse_stage of miniature.*mlp_dim was 32, is 64"):
    run.bundled_params(stage_trainable(miniature_bundle, mlp_dim=64), folder)
  without = save_bundle(dataclasses.replace(miniature_bundle, stages={}), tmp_path / "without")
  with pytest.raises(ConfigError, match="miniature has no component 'coarse_stage'"):
    run.bundled_params(stage_trainable(miniature_bundle), without)


class Continuing(toy.ToyTrainable):
  """Starts from a few numbers of a bundle's codec."""

  component = "codec"

  def component_params(self, component, what):
    first = component.params["codebooks"].ravel()
    shapes = jax.eval_shape(
      lambda key: meta.unbox(self.module.init(key, jnp.zeros((1, self.config.embed)))["params"]),
      jax.random.key(0),
    )
    return jax.tree.map(lambda x: jnp.resize(first, x.shape), shapes)

  def with_params(self, state, params):
    return dataclasses.replace(state, params=params, ema_params=jax.tree.map(jnp.copy, params))


def train(model, folder, model_dir, total_steps):
  config = TrainConfig(model_dir, total_steps, eval_period=0, tensorboard=False)
  return run.train(model=model, config=config, train_dataset=toy.ToyData, initial_bundle=folder)


def test_a_run_needs_its_initial_bundle_only_at_the_start(miniature_bundle, tmp_path):
  bundle = save_bundle(miniature_bundle, tmp_path / "bundle")
  folder = tmp_path / "run"
  train(Continuing(), bundle, folder, 1)
  begun = run.bundled_params(Continuing(), bundle)
  checkpoint = Checkpoints(folder)
  state = checkpoint.restore(_abstract(Continuing())).state  # pyright: ignore[reportOptionalMemberAccess]: it is not None
  checkpoint.close()
  difference = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), state.params, begun)
  assert 0 < max(jax.tree.leaves(difference)) < 0.02  # one step with a rate of 0.01
  assert "starts from the initial parameters" in (folder / "log.txt").read_text()

  bundle.rename(tmp_path / "elsewhere")
  assert train(Continuing(), bundle, folder, 2).finished
  with pytest.raises(BundleError, match="no bundle"):
    train(Continuing(), bundle, tmp_path / "other", 1)


def test_a_model_that_cannot_start_from_a_bundle_is_refused(folder):
  class FromNothing(toy.ToyTrainable):
    component = "codec"

  with pytest.raises(ConfigError, match="cannot start from the codec of miniature"):
    run.bundled_params(FromNothing(), folder)


def _abstract(model):
  state = jax.eval_shape(model.init, jax.random.key(0), next(toy.ToyData()))
  device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), meta.unbox(state)
  )
