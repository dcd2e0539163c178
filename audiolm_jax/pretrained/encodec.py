"""EnCodec at work: a published causal model behind the `Codec` protocol, and its weights.

Source: Défossez, Copet, Synnaeve and Adi, "High Fidelity Neural Audio Compression", 2022 (arXiv
2210.13438).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int

from audiolm_jax.codec.blocks import exact_blocks, initial_state, plan_blocks
from audiolm_jax.codec.clips import encode_side_by_side
from audiolm_jax.codec.interface import CodecSpec
from audiolm_jax.codec.quantizer import dequantize, residual_quantize
from audiolm_jax.errors import ConfigError
from audiolm_jax.pretrained.encodec_layers import (
  KERNEL,
  LSTM_LAYERS,
  UNIT_KERNEL,
  UNIT_SQUEEZE,
  Decoder,
  EncodecConfig,
  Encoder,
  State,
  decoder_state,
  encoder_state,
)
from audiolm_jax.pretrained.weights import PublishedWeights

# What config.json must say, where it says anything, for these layers to be the model's.
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


class EncodecCodec:
  """Encodes and decodes in blocks of frames, carrying the state between blocks.

  The last frame of a clip that does not fill it is padded by mirrors, layer for layer, as the
  published model does it. Streams wait for the first frames, which show in each other's mirrors.
  """

  def __init__(self, config: EncodecConfig, params: Mapping[str, Any]):
    """`params` is {"encoder", "decoder", "codebooks" [quantizers, size, latent]}."""
    self.config = config
    # Unlike jnp.asarray, compiles nothing.
    self.params = jax.device_put(dict(params))

  @property
  def spec(self) -> CodecSpec:
    return self.config.spec

  @property
  def token_params(self) -> dict[str, Any]:
    """The parameters that decide the codes: all but the decoder's."""
    return {name: value for name, value in self.params.items() if name != "decoder"}

  @property
  def codebooks(self) -> Float[jax.Array, "quantizers size latent"]:
    """The vectors that the codes stand for; a frame is the sum of its own."""
    return self.params["codebooks"]

  def encode(
    self,
    waveform: Float[np.ndarray | jax.Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Int[np.ndarray, "batch frames q"]:
    """Codes of `ceil(samples / hop_length)` frames.

    Args:
      waveform: one clip a row.
      lengths: samples of each row that count; its codes past them are 0.
    """
    waveform = np.asarray(waveform, np.float32)
    batch, samples = waveform.shape
    hop = self.spec.hop_length
    frames = -(-samples // hop)
    ends = np.full(batch, samples) if lengths is None else np.asarray(lengths)
    state = initial_state(encoder_state, self.config, batch)
    pieces = [np.zeros((batch, 0, self.spec.num_quantizers), np.int32)]
    for start, length in plan_blocks(frames):
      piece = waveform[:, start * hop : (start + length) * hop]
      piece = np.pad(piece, ((0, 0), (0, length * hop - piece.shape[1])))
      codes, state = _encode(self.config, self.token_params, piece, _from(start * hop, ends), state)
      pieces.append(np.asarray(codes))
    codes = np.concatenate(pieces, axis=1)[:, :frames]
    return np.where((np.arange(frames) < -(-ends // hop)[:, None])[..., None], codes, 0)

  def decode(
    self,
    codes: Int[np.ndarray | jax.Array, "batch frames q"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Float[np.ndarray, "batch samples"]:
    """Waveform of `frames * hop_length` samples from the first `q` levels.

    Args:
      codes: of one clip a row.
      lengths: frames of each row that count; its samples past them are 0.
    """
    codes = np.asarray(codes, np.int32)
    batch, frames, _ = codes.shape
    hop = self.spec.hop_length
    ends = np.full(batch, frames) if lengths is None else np.asarray(lengths)
    state = initial_state(decoder_state, self.config, batch)
    pieces = [np.zeros((batch, 0), np.float32)]
    for start, length in plan_blocks(frames):
      piece = codes[:, start : start + length]
      piece = np.pad(piece, ((0, 0), (0, length - piece.shape[1]), (0, 0)))
      waveform, state = _decode(self.config, self.params, piece, _from(start, ends), state)
      pieces.append(np.asarray(waveform))
    waveform = np.concatenate(pieces, axis=1)[:, : frames * hop]
    return np.where(np.arange(frames * hop) < ends[:, None] * hop, waveform, 0)

  def encode_long(self, waveform: Float[np.ndarray, "samples"]) -> Int[np.ndarray, "frames q"]:
    """Codes of one long clip in bounded memory; equal to `encode`."""
    return self.encode(np.asarray(waveform)[None])[0]

  def encode_clips(
    self, waveforms: Sequence[Float[np.ndarray, "samples"]], batch_size: int
  ) -> list[Int[np.ndarray, "frames q"]]:
    """Codes of each clip, as of `encode_long`, but clips of like length go side by side."""
    return encode_side_by_side(self.encode, waveforms, batch_size, self.spec.hop_length)

  def stream_encoder(self, batch: int = 1) -> "EncodecEncoderStream":
    """A new stream; codes come with their frame, once `first_frames` are there."""
    return EncodecEncoderStream(self, batch)

  def stream_decoder(self, batch: int = 1) -> "EncodecDecoderStream":
    """A new stream; samples come with their codes, once `first_frames` are there."""
    return EncodecDecoderStream(self, batch)


class EncodecEncoderStream:
  """Waveform pieces of any length in, codes of the completed frames out."""

  def __init__(self, codec: EncodecCodec, batch: int):
    self._codec = codec
    self._state = initial_state(encoder_state, codec.config, batch)
    self._started = False
    self._waiting = np.zeros((batch, 0), np.float32)

  def push(self, waveform: Float[np.ndarray, "batch samples"]) -> Int[np.ndarray, "batch frames q"]:
    """Codes of every frame that no sample still to come can change."""
    self._waiting = np.concatenate([self._waiting, np.asarray(waveform, np.float32)], axis=1)
    hop, first = self._codec.spec.hop_length, self._codec.config.first_frames
    pieces = [np.zeros((len(self._waiting), 0, self._codec.spec.num_quantizers), np.int32)]
    if not self._started and self._waiting.shape[1] >= first * hop:
      pieces.append(self._encode(first))
    if self._started:
      for _, length in exact_blocks(self._waiting.shape[1] // hop):
        pieces.append(self._encode(length))
    return np.concatenate(pieces, axis=1)

  def flush(self) -> Int[np.ndarray, "batch frames q"]:
    """Codes of the frames that are left, the last one padded by mirrors; the clip ends here."""
    frames = -(-self._waiting.shape[1] // self._codec.spec.hop_length)
    if not frames:
      return self.push(self._waiting)
    return self._encode(1 if self._started else self._codec.config.first_frames)[:, :frames]

  def _encode(self, frames: int) -> np.ndarray:
    samples = frames * self._codec.spec.hop_length
    batch, ready = self._waiting.shape
    piece = np.pad(self._waiting[:, :samples], ((0, 0), (0, max(0, samples - ready))))
    self._waiting, self._started = self._waiting[:, samples:], True
    codec, ends = self._codec, np.full(batch, ready, np.int32)
    # No end is known before `flush`; where the samples fill their frames it makes no difference.
    codes, self._state = _encode(codec.config, codec.token_params, piece, ends, self._state)
    return np.asarray(codes)


class EncodecDecoderStream:
  """Code frames in, their samples out."""

  def __init__(self, codec: EncodecCodec, batch: int):
    self._codec = codec
    self._state = initial_state(decoder_state, codec.config, batch)
    self._batch, self._started = batch, False
    self._waiting: np.ndarray | None = None

  def push(self, codes: Int[np.ndarray, "batch frames q"]) -> Float[np.ndarray, "batch samples"]:
    """The samples of every frame that no code still to come can change."""
    codes = np.asarray(codes, np.int32)
    waiting = codes if self._waiting is None else np.concatenate([self._waiting, codes], axis=1)
    self._waiting = waiting
    pieces = [np.zeros((self._batch, 0), np.float32)]
    if not self._started and waiting.shape[1] >= self._codec.config.first_frames:
      pieces.append(self._decode(waiting, self._codec.config.first_frames))
    if self._started:
      for _, length in exact_blocks(self._waiting.shape[1]):
        pieces.append(self._decode(self._waiting, length))
    return np.concatenate(pieces, axis=1)

  def flush(self) -> Float[np.ndarray, "batch samples"]:
    """The samples of a clip of fewer frames than a stream waits for; else none are left."""
    if self._waiting is None or not self._waiting.shape[1]:
      return np.zeros((self._batch, 0), np.float32)
    samples = self._waiting.shape[1] * self._codec.spec.hop_length
    return self._decode(self._waiting, self._codec.config.first_frames)[:, :samples]

  def _decode(self, waiting: np.ndarray, frames: int) -> np.ndarray:
    piece = waiting[:, :frames]
    ends = np.full(self._batch, piece.shape[1], np.int32)
    piece = np.pad(piece, ((0, 0), (0, frames - piece.shape[1]), (0, 0)))
    self._waiting, self._started = waiting[:, frames:], True
    codec = self._codec
    waveform, self._state = _decode(codec.config, codec.params, piece, ends, self._state)
    return np.asarray(waveform)


def _from(start: int, ends: np.ndarray) -> np.ndarray:
  """Ends as they lie from a block's start on."""
  return (ends - start).astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
def _encode(
  config: EncodecConfig,
  params: Mapping[str, Any],
  waveform: jax.Array,
  ends: jax.Array,
  state: State,
) -> tuple[jax.Array, State]:
  latents, state = Encoder(config).apply({"params": params["encoder"]}, waveform, ends, state)
  return residual_quantize(latents, params["codebooks"]), state


@functools.partial(jax.jit, static_argnums=0)
def _decode(
  config: EncodecConfig, params: Mapping[str, Any], codes: jax.Array, ends: jax.Array, state: State
) -> tuple[jax.Array, State]:
  latents = dequantize(codes, params["codebooks"])
  return Decoder(config).apply({"params": params["decoder"]}, latents, ends, state)


def read_config(published: Mapping[str, Any]) -> EncodecConfig:
  """The shape that the `config.json` of a model in the transformers format names.

  Raises:
    ConfigError: it is of another kind of model, lacks a field, or is not causal and mono.
  """
  if published.get("model_type") != "encodec":
    raise ConfigError(
      f"config.json is of a model of type {published.get('model_type')!r}, and 'encodec' is wanted"
    )
  for name, wanted in _FIXED.items():
    if published.get(name, wanted) != wanted:
      raise ConfigError(
        f"config.json says {name} {published[name]!r}, and only {wanted!r} can be converted; "
        "take facebook/encodec_24khz"
      )
  try:
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
  except KeyError as error:
    raise ConfigError(
      f"config.json lacks {error}; take the one that is beside the weights"
    ) from None
  if published.get("codebook_dim") not in (None, latent_dim):
    raise ConfigError(
      f"config.json says codebook_dim {published['codebook_dim']} and hidden_size {latent_dim}; "
      "they must agree: take facebook/encodec_24khz"
    )
  return config


def convert(published: Mapping[str, Any], weights: PublishedWeights) -> EncodecCodec:
  """The codec of a published EnCodec in the format of transformers, with all its levels.

  Args:
    published: its `config.json`.
    weights: its tensors by name, weight-normalized or plain.
  Raises:
    ConfigError, DataError: a tensor is missing, left over or of another shape.
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
  weights.check_shapes(params, _shapes(config))
  return EncodecCodec(config, params)


def _unit(weights: PublishedWeights, name: str, index: int) -> dict[str, Any]:
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


def _shapes(config: EncodecConfig) -> dict[str, Any]:
  """Shapes of all parameters, without a computation."""
  c, key = config, jax.random.key(0)
  ends = jax.ShapeDtypeStruct((1,), jnp.int32)
  waveform = jax.ShapeDtypeStruct((1, c.hop_length), jnp.float32)
  latents = jax.ShapeDtypeStruct((1, 1, c.latent_dim), jnp.float32)
  states = [jax.eval_shape(functools.partial(f, c, 1)) for f in (encoder_state, decoder_state)]
  encoder = jax.eval_shape(Encoder(c).init, key, waveform, ends, states[0])
  decoder = jax.eval_shape(Decoder(c).init, key, latents, ends, states[1])
  codebooks = (c.num_quantizers, c.codebook_size, c.latent_dim)
  return {
    "encoder": nn.meta.unbox(encoder["params"]),
    "decoder": nn.meta.unbox(decoder["params"]),
    "codebooks": jax.ShapeDtypeStruct(codebooks, jnp.float32),
  }
