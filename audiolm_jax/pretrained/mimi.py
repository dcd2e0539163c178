"""Mimi, a published causal codec with a semantic level, and its weights.

Source: Défossez and others, "Moshi: a speech-text foundation model for real-time dialogue", 2024
(arXiv 2410.00037), section 3.3.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from audiolm_jax.chunking import ChunkedModel, Sizes
from audiolm_jax.codec.causal import State
from audiolm_jax.codec.chunked_codec import ChunkedCodec
from audiolm_jax.codec.quantizer import dequantize, residual_quantize
from audiolm_jax.core import modules
from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Params
from audiolm_jax.io.stored_program import StoredProgram
from audiolm_jax.pretrained.mimi_layers import (
  KERNEL,
  LAST_KERNEL,
  UNIT_KERNEL,
  UNIT_SQUEEZE,
  MimiConfig,
  MimiDecoder,
  MimiEncoder,
)
from audiolm_jax.pretrained.mimi_transformer import MimiTransformerConfig
from audiolm_jax.pretrained.weights import PublishedWeights, fields_of

# 4 s at the published rate.
_SIZES = Sizes.in_steps(50, 5)
# Required values of fields of config.json, if present, for which these layers are correct.
_FIXED = {
  "audio_channels": 1,
  "use_causal_conv": True,
  "pad_mode": "constant",
  "trim_right_ratio": 1.0,
  "use_conv_shortcut": False,
  "num_residual_layers": 1,
  "kernel_size": KERNEL,
  "last_kernel_size": LAST_KERNEL,
  "residual_kernel_size": UNIT_KERNEL,
  "compress": UNIT_SQUEEZE,
  "hidden_act": "gelu",
  "attention_bias": False,
}
_HALVES = ("semantic", "acoustic")
# Minimum usage of an entry, so that the sum of an unused entry is not divided by 0.
_LEAST_USAGE = 1e-5


class MimiCodec(ChunkedCodec):
  """Mimi with the interface of codecs; chunks have at most 4 s and carry a state to the next chunk.

  The codec has all levels, although the model was published for use with the first 8 levels.
  `params` is {"encoder", "decoder", "codebooks" [quantizers, size, dim]}; these codebooks are not
  projected to latents.
  """

  config: MimiConfig

  @functools.cached_property
  def codebooks(self) -> Float[np.ndarray, "quantizers size latent"]:
    """The codebook vectors of the semantic and acoustic levels, each projected to latents.

    The latent of a frame is the sum of the vectors of its codes.
    """
    decoder, count = self.params["decoder"], self.config.num_semantic_quantizers
    books = np.asarray(self.params["codebooks"])
    kernels = [np.asarray(decoder[half]["kernel"]) for half in _HALVES]
    return np.concatenate([books[:count] @ kernels[0], books[count:] @ kernels[1]])

  @property
  def encoder(self) -> ChunkedModel:
    return self.encoder_of(encode_chunk, _SIZES, self.config.encoder_state)

  @property
  def decoder(self) -> ChunkedModel:
    return self.decoder_of(decode_chunk, _SIZES, self.config.decoder_state)


@functools.partial(StoredProgram, static_argnums=(0,))
def encode_chunk(
  config: MimiConfig, params: Params, waveform: jax.Array, ends: jax.Array, state: State
) -> tuple[jax.Array, State]:
  halves, state = modules.apply(MimiEncoder(config), params["encoder"], waveform, ends, state)
  books, count = params["codebooks"], config.num_semantic_quantizers
  semantic = residual_quantize(halves[:, :, 0], books[:count])
  acoustic = residual_quantize(halves[:, :, 1], books[count:])
  return jnp.concatenate([semantic, acoustic], axis=-1), state


@functools.partial(StoredProgram, static_argnums=(0,))
def decode_chunk(
  config: MimiConfig, params: Params, codes: jax.Array, ends: jax.Array, state: State
) -> tuple[jax.Array, State]:
  del ends  # no sample depends on later codes
  books, count = params["codebooks"], config.num_semantic_quantizers
  semantic = dequantize(codes[..., :count], books[:count])
  acoustic = dequantize(codes[..., count:], books[count:])
  sums = jnp.stack([semantic, acoustic], axis=2)
  return modules.apply(MimiDecoder(config), params["decoder"], sums, state)


def read_config(published: Json) -> MimiConfig:
  """Returns the configuration from the `config.json` of a model of Hugging Face transformers.

  Raises:
    ConfigError: the model is not a Mimi, a field is missing, or a value is not supported.
  """
  rotary = published.get("rope_parameters") or {}
  with fields_of(published, "mimi"):
    transformer = MimiTransformerConfig(
      dim=published["hidden_size"],
      num_layers=published["num_hidden_layers"],
      num_heads=published["num_attention_heads"],
      feed_forward_dim=published["intermediate_size"],
      window=published["sliding_window"],
      rotary_base=rotary.get("rope_theta") or published.get("rope_theta") or 10_000.0,
      norm_epsilon=published["norm_eps"],
    )
    config = MimiConfig(
      sample_rate=published["sampling_rate"],
      channels=published["num_filters"],
      strides=tuple(reversed(published["upsampling_ratios"])),
      transformer=transformer,
      num_quantizers=published["num_quantizers"],
      num_semantic_quantizers=published["num_semantic_quantizers"],
      codebook_size=published["codebook_size"],
      codebook_dim=published["codebook_dim"],
    )
  wanted = _FIXED | {
    "num_key_value_heads": transformer.num_heads,
    "head_dim": transformer.dim // transformer.num_heads,
    "upsample_groups": transformer.dim,
    "vector_quantization_hidden_dimension": config.codebook_dim,
    "frame_rate": config.spec.frame_rate,
    "rope_type": "default",
  }
  for name, value in wanted.items():
    found = (rotary if name == "rope_type" else published).get(name)
    if found not in (None, value):
      raise ConfigError(
        f"config.json has {name} {found!r}, and only {value!r} can be converted; use kyutai/mimi"
      )
  return config


def convert(published: Json, weights: PublishedWeights) -> MimiCodec:
  """Returns the codec from a Mimi in the format of Hugging Face transformers, with all levels.

  Args:
    published: content of the `config.json` of the model.
    weights: tensors of the model by name.

  Raises:
    ConfigError: `published` is invalid, see `read_config`, or a tensor has a wrong shape.
    DataError: a tensor is missing or unused.
  """
  config = read_config(published)
  count = 3 * len(config.strides)
  encoder = {
    "input": weights.convolution("encoder.layers.0.conv"),
    "output": weights.convolution(f"encoder.layers.{count + 2}.conv"),
    "transformer": _transformer(config, weights, "encoder_transformer"),
    "halving": {"conv": _halving(weights)},
  }
  decoder = {
    "doubling": {"kernel": _doubling(weights)},
    "transformer": _transformer(config, weights, "decoder_transformer"),
    "input": weights.convolution("decoder.layers.0.conv"),
    "output": weights.convolution(f"decoder.layers.{count + 2}.conv"),
  }
  for i in range(len(config.strides)):
    down, up = f"encoder.layers.{3 * i + 3}.conv", f"decoder.layers.{3 * i + 2}.conv"
    encoder[f"block_{i}_unit"] = _unit(weights, f"encoder.layers.{3 * i + 1}")
    encoder[f"block_{i}_down"] = weights.strided_convolution(down)
    decoder[f"block_{i}_up"] = weights.transposed_convolution(up)
    decoder[f"block_{i}_unit"] = _unit(weights, f"decoder.layers.{3 * i + 3}")
  codebooks = []
  levels = (config.num_semantic_quantizers, config.num_quantizers - config.num_semantic_quantizers)
  for half, number in zip(_HALVES, levels, strict=True):
    name = f"quantizer.{half}_residual_vector_quantizer"
    encoder[half] = {"kernel": weights.take(f"{name}.input_proj.weight")[..., 0].T}
    decoder[half] = {"kernel": weights.take(f"{name}.output_proj.weight")[..., 0].T}
    codebooks += [_codebook(weights, f"{name}.layers.{level}.codebook") for level in range(number)]
  weights.check_all_used()
  params = {"encoder": encoder, "decoder": decoder, "codebooks": np.stack(codebooks)}
  weights.check_shapes(params, config.parameter_shapes())
  return MimiCodec(config, params)


def _unit(weights: PublishedWeights, name: str) -> Params:
  return {
    "squeeze": weights.convolution(f"{name}.block.1.conv"),
    "expand": weights.convolution(f"{name}.block.3.conv"),
  }


def _halving(weights: PublishedWeights) -> dict[str, np.ndarray]:
  kernel = weights.weight("downsample.conv").transpose(2, 1, 0)
  outputs = kernel.shape[-1]
  return {"kernel": kernel.reshape(-1, outputs), "bias": np.zeros(outputs, np.float32)}


def _doubling(weights: PublishedWeights) -> np.ndarray:
  kernel = weights.weight("upsample.conv")[:, 0].T
  return kernel.reshape(2, -1, kernel.shape[-1])


def _transformer(config: MimiConfig, weights: PublishedWeights, name: str) -> Params:
  return {
    f"block_{i}": _block(weights, f"{name}.layers.{i}")
    for i in range(config.transformer.num_layers)
  }


def _block(weights: PublishedWeights, name: str) -> Params:
  def kernel(theirs: str) -> dict[str, np.ndarray]:
    return {"kernel": weights.take(f"{name}.{theirs}.weight").T}

  attention = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
  return {
    "attention": {ours: kernel(f"self_attn.{theirs}") for ours, theirs in attention.items()},
    "attention_norm": weights.norm(f"{name}.input_layernorm"),
    "attention_scale": weights.take(f"{name}.self_attn_layer_scale.scale"),
    "feed_forward_norm": weights.norm(f"{name}.post_attention_layernorm"),
    "feed_forward_in": kernel("mlp.fc1"),
    "feed_forward_out": kernel("mlp.fc2"),
    "feed_forward_scale": weights.take(f"{name}.mlp_layer_scale.scale"),
  }


def _codebook(weights: PublishedWeights, name: str) -> np.ndarray:
  """Returns the entries of a codebook: moving sums of vectors, divided by usage counts."""
  if f"{name}.initialized" in weights.tensors:
    weights.take(f"{name}.initialized")
  usage = np.maximum(weights.take(f"{name}.cluster_usage"), np.float32(_LEAST_USAGE))
  return weights.take(f"{name}.embed_sum") / usage[:, None]
