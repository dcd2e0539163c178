"""The state of a codec training run."""

import dataclasses
from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import PyTree

from audiolm_jax.codec.quantizer import QuantizerState
from audiolm_jax.core.arrays import Array


@no_type_check  # trees of shapes have this structure too
@flax.struct.dataclass
class CodecState:
  """The state of a codec training run between steps.

  Attributes:
    step: number of consumed batches; skipped updates count.
    generator: {"encoder", "decoder"} parameters.
    generator_ema: moving average of `generator`.
    quantizer: codebooks and their statistics.
    codebooks_ema: moving average of the codebooks with the same decay as `generator_ema`.
    discriminators: parameters of the discriminators.
    generator_opt: state of the generator's optimizer.
    discriminator_opt: state of the discriminators' optimizer.
    recent: [kmeans_vectors, latent], the most recent latents.
    gradient_norms: [losses], moving averages of each loss's gradient norm at the waveform.
  """

  step: jax.Array
  generator: PyTree
  generator_ema: PyTree
  quantizer: QuantizerState
  codebooks_ema: jax.Array
  discriminators: PyTree
  generator_opt: PyTree
  discriminator_opt: PyTree
  recent: jax.Array
  gradient_norms: jax.Array


def with_averaged_encoder(state: CodecState) -> CodecState:
  """Returns the state with the averaged encoder in place of the trained one."""
  generator = {**state.generator, "encoder": state.generator_ema["encoder"]}
  return dataclasses.replace(state, generator=generator)


def has_codebooks(state: CodecState) -> Array:
  """Returns whether the codebooks have been initialised, a bool []."""
  return jnp.any(state.quantizer.counts > 0)


def remember(recent: Array, latents: Array) -> Array:
  """Inserts new latents at the front and drops the oldest ones.

  Args:
    recent: [vectors, latent], the latents of earlier batches.
    latents: [batch, frames, latent].
  """
  new = lax.stop_gradient(latents).reshape(-1, latents.shape[-1])[: recent.shape[0]]
  return jnp.concatenate([new, recent[: recent.shape[0] - new.shape[0]]])
