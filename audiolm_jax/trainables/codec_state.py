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


@no_type_check  # the leaves may be shapes or shardings instead of arrays
@flax.struct.dataclass
class CodecState:
  """The state of a codec training run between steps.

  Attributes:
    step: number of consumed batches, including batches of skipped updates; int32 scalar.
    generator: parameters {"encoder", "decoder"}.
    generator_ema: exponential moving average of `generator`.
    quantizer: codebooks and their statistics.
    codebooks_ema: [quantizers, size, latent], moving average of the codebooks with the decay of
      `generator_ema`.
    discriminators: parameters of the discriminators.
    generator_opt: state of the generator's optimizer.
    discriminator_opt: state of the discriminators' optimizer.
    recent: [kmeans_vectors, latent], the latest latents before the first step with quantization.
    gradient_norms: [losses], moving average of the norm of the gradient of each loss at the
      generated waveform.
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
  """Returns the state with the averaged encoder in place of the encoder in `generator`."""
  generator = {**state.generator, "encoder": state.generator_ema["encoder"]}
  return dataclasses.replace(state, generator=generator)


def has_codebooks(state: CodecState) -> Array:
  """Returns whether the codebooks are initialised, as a bool scalar."""
  return jnp.any(state.quantizer.counts > 0)


def remember(recent: Array, latents: Array) -> Array:
  """Inserts new latents at the front and drops the oldest latents.

  Args:
    recent: [vectors, latent], the latents of earlier batches.
    latents: [batch, frames, latent], the new latents.

  Returns:
    An array of the shape of `recent`.
  """
  new = lax.stop_gradient(latents).reshape(-1, latents.shape[-1])[: recent.shape[0]]
  return jnp.concatenate([new, recent[: recent.shape[0] - new.shape[0]]])
