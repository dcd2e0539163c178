"""Models with random weights, for measurements that depend only on their size."""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax.core import meta

from audiolm_jax import bundles
from audiolm_jax.bundles import Bundle
from audiolm_jax.codec import soundstream
from audiolm_jax.codec.residual_codec import ResidualCodec
from audiolm_jax.core import products
from audiolm_jax.lm import stages
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.lm.stage import Stage
from audiolm_jax.lm.stages import StageSpec
from audiolm_jax.lm.transformer import Transformer
from audiolm_jax.training.partitioning import unbox

# What gin files leave open, for models that are not trained.
UNSET = ("MODEL_DIR = 'run'", "MIXTURE_OR_TASK_NAME = 'task'")


def random_stage(spec: StageSpec, config: TransformerConfig, seed: int = 0) -> Stage:
  """Returns a stage with random weights."""
  tokens = np.zeros((1, 8), np.int32)
  model = Transformer(config, spec.layout.vocab_size)
  params = jax.jit(model.init)(jax.random.key(seed), tokens, tokens)["params"]
  return Stage(spec, config, meta.unbox(params))


def random_codec(config: soundstream.SoundStreamConfig, seed: int = 0) -> ResidualCodec:
  """Returns a codec with random weights."""
  keys = jax.random.split(jax.random.key(seed), 3)
  waveform = np.zeros((1, 4 * config.hop_length), np.float32)
  shape = (config.num_quantizers, config.codebook_size, config.latent_dim)
  params = meta.unbox(jax.jit(config.init_params)(keys[:2], waveform))
  return ResidualCodec(config, params | {"codebooks": jax.random.normal(keys[2], shape)})


def bundle_of(name: str, stage_config: TransformerConfig, codec: ResidualCodec) -> Bundle:
  """Returns the paper's stages in one shape, with the semantic tokenizer of `speech`."""
  base = bundles.load_bundle("speech", stages=())
  specs = stages.paper_stages(
    num_clusters=base.semantic.spec.num_clusters, codebook_size=codec.spec.codebook_size
  )
  return dataclasses.replace(
    base,
    name=name,
    codec=codec,
    stages={stage: random_stage(spec, stage_config) for stage, spec in specs.items()},
    semantic_rate=18.0,
  )


def toy_bundle() -> Bundle:
  """Returns stages of 4 layers and width 256 with the paper's crops, and a codec of 16 channels."""
  shape = TransformerConfig(num_layers=4, dim=256, num_heads=4, mlp_dim=1024)
  codec = random_codec(soundstream.SoundStreamConfig(encoder_channels=16, decoder_channels=16))
  return bundle_of("toy", dataclasses.replace(shape, dropout_rate=0.0), codec)


def constant_batch(dataset: Any) -> dict[str, np.ndarray]:
  """Returns a batch of the first token, or of samples of 1, in which everything has a loss."""
  shapes = dataset.batch_shapes()
  return {
    name: np.full(value.shape, np.issubdtype(value.dtype, np.floating), value.dtype)
    for name, value in shapes.items()
  }


class TrainingStep:
  """A compiled training step and its state.

  Args:
    model: the trainable.
    batch: what it is trained on.
    precision: of its products; None for the one that the trainer chooses on this machine.
  """

  def __init__(
    self,
    model: Any,
    batch: dict[str, np.ndarray],
    precision: products.Precision | None = None,
  ):
    self._state = unbox(jax.jit(model.init)(jax.random.key(0), batch))
    self._batch = jax.device_put(batch)
    parts = model.parts(0)

    def step(*given: Any) -> Any:
      with products.precision(precision or products.fastest_precision()):
        return model.train_step(*given, *parts)

    self._step = jax.jit(step, donate_argnums=0)

  def step(self) -> None:
    """Runs one update, and returns when it is complete."""
    self._state, metrics = self._step(self._state, self._batch, jax.random.key(0))
    jax.block_until_ready(metrics)
