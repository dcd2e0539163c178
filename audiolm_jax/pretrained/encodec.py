"""EnCodec, a published causal codec, with the `Codec` protocol, and its weights.

Source: Défossez, Copet, Synnaeve and Adi, "High Fidelity Neural Audio Compression", 2022 (arXiv
2210.13438).
"""

import math

import numpy as np

from audiolm_jax.codec.residual_codec import ResidualCodec
from audiolm_jax.core.configs import Json
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.modules import Params
from audiolm_jax.pretrained.encodec_layers import (
  KERNEL,
  LSTM_LAYERS,
  UNIT_KERNEL,
  UNIT_SQUEEZE,
  EncodecConfig,
)
from audiolm_jax.pretrained.weights import PublishedWeights, fields_of

# Required values of fields of config.json, if present, for which these layers are correct.
_FIXED = {
  "audio_channels": 1,
  "normalize": False,
  "chunk_length_s": None,
  "norm_type": "weight_norm",
  "use_causal_conv": True,
  "pad_mode": "reflect",
  "trim_right_ratio": 1.0,
  "use_conv_shortcut": True,
  "num_residual_layers": 1,
  "num_lstm_layers": LSTM_LAYERS,
  "kernel_size": KERNEL,
  "last_kernel_size": KERNEL,
  "residual_kernel_size": UNIT_KERNEL,
  "compress": UNIT_SQUEEZE,
}


def read_config(published: Json) -> EncodecConfig:
  """Returns the configuration from the `config.json` of a model of Hugging Face transformers.

  Raises:
    ConfigError: the model is not an EnCodec, a field is missing, or a value is not supported, such
      as two channels.
  """
  with fields_of(published, "encodec", _FIXED, "facebook/encodec_24khz"):
    rate, size = published["sampling_rate"], published["codebook_size"]
    strides = tuple(reversed(published["upsampling_ratios"]))
    latent_dim, bits = published["hidden_size"], math.ceil(math.log2(size))
    frame_rate = math.ceil(rate / math.prod(strides))
    config = EncodecConfig(
      sample_rate=rate,
      channels=published["num_filters"],
      strides=strides,
      latent_dim=latent_dim,
      num_quantizers=int(1000 * published["target_bandwidths"][-1] // (frame_rate * bits)),
      codebook_size=size,
    )
  if published.get("codebook_dim") not in (None, latent_dim):
    raise ConfigError(
      f"config.json has codebook_dim {published['codebook_dim']} and hidden_size {latent_dim}; "
      "they must be equal: use facebook/encodec_24khz"
    )
  return config


def convert(published: Json, weights: PublishedWeights) -> ResidualCodec:
  """Returns the codec from an EnCodec in the format of Hugging Face transformers, with all levels.

  Args:
    published: content of the `config.json` of the model.
    weights: tensors of the model by name, weight-normalized or plain.

  Raises:
    ConfigError: `published` is invalid, see `read_config`, or a tensor has a wrong shape.
    DataError: a tensor is missing or unused.
  """
  config = read_config(published)
  count = 3 * len(config.strides)
  encoder = {
    "input": weights.convolution("encoder.layers.0.conv"),
    "lstm": _lstm(weights, f"encoder.layers.{count + 1}.lstm"),
    "output": weights.convolution(f"encoder.layers.{count + 3}.conv"),
  }
  decoder = {
    "input": weights.convolution("decoder.layers.0.conv"),
    "lstm": _lstm(weights, "decoder.layers.1.lstm"),
    "output": weights.convolution(f"decoder.layers.{count + 3}.conv"),
  }
  for i in range(len(config.strides)):
    encoder |= _unit(weights, f"encoder.layers.{3 * i + 1}", i)
    down, up = f"encoder.layers.{3 * i + 3}.conv", f"decoder.layers.{3 * i + 3}.conv"
    encoder[f"block_{i}_down"] = weights.strided_convolution(down)
    decoder[f"block_{i}_up"] = weights.transposed_convolution(up)
    decoder |= _unit(weights, f"decoder.layers.{3 * i + 4}", i)
  codebooks = [_codebook(weights, q) for q in range(config.num_quantizers)]
  weights.check_all_used()
  params = {"encoder": encoder, "decoder": decoder, "codebooks": np.stack(codebooks)}
  weights.check_shapes(params, config.parameter_shapes())
  return ResidualCodec(config, params)


def _unit(weights: PublishedWeights, name: str, index: int) -> Params:
  parts = {"squeeze": "block.1", "expand": "block.3", "direct": "shortcut"}
  return {
    f"block_{index}_unit_{part}": weights.convolution(f"{name}.{theirs}.conv")
    for part, theirs in parts.items()
  }


def _lstm(weights: PublishedWeights, name: str) -> dict[str, np.ndarray]:
  def layers(kind: str) -> np.ndarray:
    return np.stack([weights.take(f"{name}.{kind}_l{layer}") for layer in range(LSTM_LAYERS)])

  return {
    "input_kernel": layers("weight_ih").transpose(0, 2, 1),
    "recurrent_kernel": layers("weight_hh").transpose(0, 2, 1),
    "bias": layers("bias_ih") + layers("bias_hh"),
  }


def _codebook(weights: PublishedWeights, level: int) -> np.ndarray:
  name = f"quantizer.layers.{level}.codebook"
  for of_training in ("inited", "cluster_size", "embed_avg"):
    weights.take(f"{name}.{of_training}")
  return weights.take(f"{name}.embed")
