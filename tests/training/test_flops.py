"""Formulas for the floating-point operations of a training step, against XLA's own count.

XLA also counts what is not a matrix product or convolution (norms, activations, optimizer, random
numbers), so it finds a little more where layers are as narrow as here. It counts the body of a loop
once and the dearer branch of a condition.
"""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax.core import meta

from audiolm_jax.codec.discriminators import DiscriminatorConfig
from audiolm_jax.codec.losses import SpectralLossConfig
from audiolm_jax.codec.soundstream import SoundStreamConfig
from audiolm_jax.detection.classifier import ClassifierConfig
from audiolm_jax.lm import stages
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.semantic.conformer import ConformerConfig
from audiolm_jax.trainables.codec import CodecTrainable, CodecTrainingConfig
from audiolm_jax.trainables.detector import DetectorTrainable, DetectorTrainingConfig
from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig
from audiolm_jax.trainables.w2v_bert import SemanticTrainable, W2vBertConfig

ROWS, TOLERANCE = 2, 0.1


def counted(model, batch):
  """Returns XLA's count for the compiled training step."""
  state = meta.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))
  parts = model.parts(0)
  step = jax.jit(lambda *arguments: model.train_step(*arguments, *parts))
  compiled = step.lower(state, batch, jax.random.key(0)).compile()
  costs = compiled.cost_analysis()
  assert costs is not None
  return costs["flops"]


@pytest.mark.parametrize("name", ["semantic", "coarse", "fine"])
def test_flops_of_a_stage_equal_the_count_of_xla(name):
  seconds = {"semantic": 16.0, "coarse": 2.0, "fine": 1.0}[name]
  spec = stages.paper_stages(num_clusters=256, codebook_size=256)[name]
  spec = dataclasses.replace(spec, crop_seconds=seconds)
  transformer = TransformerConfig(
    num_layers=2,
    dim=256,
    num_heads=4,
    num_kv_heads=2,
    mlp_dim=1024,
    feed_forward="gated_gelu" if name == "fine" else "relu",
    dropout_rate=0.0,
  )
  model = StageTrainable(StageTrainingConfig(spec, transformer))
  shape = (ROWS, spec.max_length)
  ids = ("decoder_input_tokens", "decoder_target_tokens", "decoder_frame_ids")
  batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name in ids}
  batch["decoder_loss_weights"] = jax.ShapeDtypeStruct(shape, jnp.float32)
  assert model.flops_per_step(batch, 0) == pytest.approx(counted(model, batch), rel=TOLERANCE)


def test_flops_of_a_semantic_encoder_equal_the_count_of_xla():
  encoder = ConformerConfig(
    stacks=(1, 1),
    dim=256,
    num_heads=4,
    mlp_dim=1024,
    subsample_channels=32,
    # Every step attends to all others, as XLA counts; the formula omits pairs beyond the context.
    left_context=99,
    right_context=99,
    dropout_rate=0.0,
  )
  config = W2vBertConfig(encoder=encoder, codebook_size=64, code_dim=128)
  model, samples = SemanticTrainable(config), 4 * 16_000
  batch = {
    "waveform": jax.ShapeDtypeStruct((ROWS, samples), jnp.float32),
    "length": jax.ShapeDtypeStruct((ROWS,), jnp.int32),
  }
  assert model.flops_per_step(batch, 0) == pytest.approx(counted(model, batch), rel=TOLERANCE)


@pytest.mark.slow
def test_flops_of_a_codec_equal_the_count_of_xla():
  config = CodecTrainingConfig(
    # One level, because XLA counts one pass of the loop over levels.
    model=SoundStreamConfig(
      encoder_channels=16,
      decoder_channels=16,
      latent_dim=64,
      num_quantizers=1,
      codebook_size=16,
    ),
    discriminators=DiscriminatorConfig(
      wave_scales=(1, 2), wave_channels=8, wave_max_channels=64, stft_channels=16
    ),
    spectral=SpectralLossConfig(windows=(512,), num_mels=16),
    kmeans_vectors=64,
  )
  model = CodecTrainable(config)
  batch = {"waveform": jax.ShapeDtypeStruct((ROWS, 8_000), jnp.float32)}
  # The step that initialises the codebooks encodes once more, and XLA counts that branch.
  start = ROWS * config.model.encoder_flops(8_000)
  expected = counted(model, batch)
  assert model.flops_per_step(batch, 0) + start == pytest.approx(expected, rel=TOLERANCE)


def test_flops_of_a_detector_equal_the_count_of_xla():
  model = DetectorTrainable(DetectorTrainingConfig(ClassifierConfig(channels=(64, 128, 128))))
  batch = {
    "waveform": jax.ShapeDtypeStruct((ROWS, 16_000), jnp.float32),
    "label": jax.ShapeDtypeStruct((ROWS,), jnp.int32),
  }
  assert model.flops_per_step(batch, 0) == pytest.approx(counted(model, batch), rel=TOLERANCE)
