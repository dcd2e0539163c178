"""Measures the speed of the paper's codec, on clips and frame by frame, against the matrix rate.

Random weights; ten seconds of noise, batch 1.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from audiolm_jax import bundles
from audiolm_jax.codec.quantizer import quantizer_flops, residual_quantize
from audiolm_jax.codec.soundstream import SoundStreamConfig
from benchmarks import machine
from benchmarks.models import random_codec

_SECONDS = 10
_FRAMES = 1000


def measure() -> dict[str, Any]:
  """Measures seconds of audio per second, share of the matrix rate, and the slowest frame."""
  config = SoundStreamConfig()
  codec = random_codec(config)
  samples = _SECONDS * config.sample_rate
  waveform = np.random.default_rng(0).normal(0, 0.1, (1, samples)).astype(np.float32)
  codes = codec.encode(waveform)
  latents = jnp.zeros((1, samples // config.hop_length, config.latent_dim))
  quantize = jax.jit(residual_quantize)
  books = codec.params["codebooks"]
  rate_before = machine.matmul_rate()
  quantizing = machine.fastest(lambda: quantize(latents, books))
  encoding = machine.fastest(lambda: codec.encode(waveform)) - quantizing
  decoding = machine.fastest(lambda: codec.decode(codes))
  rate = (rate_before + machine.matmul_rate()) / 2
  tokenizer = bundles.load_bundle("speech", stages=()).semantic
  tokenizing = machine.fastest(lambda: tokenizer.tokenize_long(waveform[0]))
  return {
    "matmul_gflops": round(rate / 1e9),
    "encode": _row(encoding, config.encoder_flops(samples) / rate),
    "decode": _row(decoding, config.decoder_flops(samples) / rate),
    "quantize": _row(
      quantizing,
      quantizer_flops(
        samples // config.hop_length,
        config.num_quantizers,
        config.codebook_size,
        config.latent_dim,
      )
      / rate,
    ),
    "semantic_tiny_real_time": round(_SECONDS / tokenizing),
    "streamed_ms_a_frame": _streamed(codec, waveform),
  }


def _row(seconds: float, at_best: float) -> dict[str, float]:
  return {
    "real_time": round(_SECONDS / seconds, 1),
    "share_of_matmul": round(at_best / seconds, 2),
  }


def _streamed(codec, waveform) -> dict[str, float]:
  """Measures encoding and decoding of single frames of 20 ms."""
  encoder, decoder = codec.stream_encoder(), codec.stream_decoder()
  hop = codec.spec.hop_length
  found = []
  for i in range(_FRAMES + 20):
    start = i % (waveform.shape[1] // hop) * hop
    began = time.perf_counter()
    decoder.push(encoder.push(waveform[:, start : start + hop]))
    found.append(1e3 * (time.perf_counter() - began))
  found = found[20:]  # the first ones compile
  return {"median": round(float(np.median(found)), 2), "worst": round(max(found), 2)}


def text(found: dict[str, Any]) -> str:
  """Returns the result in Markdown."""
  rows = "\n".join(
    f"| {name} | **{found[name]['real_time']}** | {found[name]['share_of_matmul']} |"
    for name in ("encode", "quantize", "decode")
  )
  streamed = found["streamed_ms_a_frame"]
  return f"""SoundStream with 32 channels, 12 levels of 1024 codes, float32, {_SECONDS} s at \
batch 1; the matrix rate is {found["matmul_gflops"]} GFLOP/s.

| | audio s / s | of the matrix rate |
|---|---:|---:|
{rows}

Streamed by frames of 20 ms, both ways: {streamed["median"]} ms in the middle, \
{streamed["worst"]} ms the worst of {_FRAMES}. Semantic tokens of `speech`: \
{found["semantic_tiny_real_time"]} audio s / s."""
