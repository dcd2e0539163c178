"""Measures decoding, continuation and training at the paper's size on one GPU.

Takes about eight minutes, most of them compilation.
"""

from typing import Any

import jax
import numpy as np

from audiolm_jax.bundles import Bundle
from audiolm_jax.codec.soundstream import SoundStreamConfig
from audiolm_jax.core.errors import UserError
from audiolm_jax.core.layers import Remat
from audiolm_jax.lm import stages
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.lm.stages import AutoregressiveSpec
from audiolm_jax.sampling.decoder import StageSampler
from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig
from benchmarks import continuation, decoding, machine
from benchmarks.models import TrainingStep, bundle_of, random_codec, random_stage

_RATE = 16_000
_NEW_SECONDS = 7.0
_LARGEST_BATCH = 64
_STEPS = 20
_MATRIX_SIDE = 8192


def measure() -> dict[str, Any]:
  """Measures all rows, and the rates of the device in the same process.

  Raises:
    UserError: JAX has no GPU here.
  """
  if jax.default_backend() != "gpu":
    raise UserError(
      f"the benchmark gpu needs a GPU, and JAX runs on {jax.default_backend()} here; install "
      "the extra cuda12 or cuda13 on a machine that has one"
    )
  config = TransformerConfig(dropout_rate=0.0, dtype="bfloat16")
  sampler = StageSampler(random_stage(stages.coarse_stage(), config))
  read = machine.read_rate()
  found: dict[str, Any] = {
    "read_gb_per_s": round(read / 1e9),
    "decoding": [decoding_row(sampler, rows, read) for rows in (1, 64)],
  }
  bundle = bundle_of("base", config, random_codec(SoundStreamConfig()))
  found["continuation"] = [continuation_row(bundle, prompts) for prompts in (1, 16)]
  rate = machine.matmul_rate("bfloat16", _MATRIX_SIDE)
  found["matmul_tflops"] = round(rate / 1e12)
  trained = TransformerConfig(dtype="bfloat16", scan_layers=True, remat=Remat.MINIMAL)
  found["training"] = [
    training_row(spec, trained, _LARGEST_BATCH, rate) for spec in stages.paper_stages().values()
  ]
  return found


def decoding_row(sampler: StageSampler, rows: int, read_rate: float) -> dict[str, Any]:
  """Measures a step in the middle of a crop, and its share of the memory bandwidth."""
  curve = decoding.by_position(sampler, rows)
  seconds = curve[len(curve) // 2]["ms"] / 1e3
  num_bytes = decoding.bytes_per_step(sampler, rows)
  return {
    "rows": rows,
    "ms": round(1e3 * seconds, 3),
    "tokens_per_second": round(rows / seconds),
    "share_of_bandwidth": round(num_bytes / seconds / read_rate, 2),
  }


def continuation_row(bundle: Bundle, prompts: int) -> dict[str, Any]:
  """Measures one warm call that continues three seconds by seven, codec included."""
  waveforms = [continuation.prompt()] * prompts

  def call() -> Any:
    made = bundle.continue_audio(waveforms, _RATE, duration=_NEW_SECONDS, seed=0)
    return [one.waveform for one in made]

  seconds = machine.fastest(call, repeats=3)
  return {
    "prompts": prompts,
    "seconds": round(seconds, 2),
    "computing_over_new_sound": round(seconds / _NEW_SECONDS / prompts, 3),
  }


def training_row(
  spec: AutoregressiveSpec, config: TransformerConfig, largest_batch: int, matmul_rate: float
) -> dict[str, Any]:
  """Measures an update with the largest batch that fits, and its share of the matrix rate."""
  rows = largest_batch
  while True:
    model, batch = StageTrainable(StageTrainingConfig(spec, config)), random_batch(spec, rows)
    try:
      training = TrainingStep(model, batch)
      seconds = sorted(machine.times(training.step, _STEPS))[_STEPS // 2]
      break
    except jax.errors.JaxRuntimeError as error:
      if "RESOURCE_EXHAUSTED" not in str(error) or rows == 1:
        raise
      rows //= 2
  return {
    "stage": spec.name,
    "rows": rows,
    "length": spec.max_length,
    "ms": round(1e3 * seconds, 1),
    "share_of_matrix_rate": round(model.flops_per_step(batch, 0) / seconds / matmul_rate, 3),
  }


def random_batch(spec: AutoregressiveSpec, rows: int) -> dict[str, np.ndarray]:
  """Returns random tokens of the vocabulary of the stage; all of them are targets."""
  rng, shape = np.random.default_rng(0), (rows, spec.max_length)
  return {
    "decoder_input_tokens": rng.integers(4, spec.layout.vocab_size, shape, np.int32),
    "decoder_target_tokens": rng.integers(4, spec.layout.vocab_size, shape, np.int32),
    "decoder_frame_ids": np.zeros(shape, np.int32),
    "decoder_loss_weights": np.ones(shape, np.float32),
  }


def text(found: dict[str, Any]) -> str:
  """Returns the result in Markdown."""
  decoded = "\n".join(
    f"| {r['rows']} | {r['ms']} | {r['tokens_per_second']} | **{r['share_of_bandwidth']}** |"
    for r in found["decoding"]
  )
  continued = "\n".join(
    f"| {r['prompts']} | {r['seconds']} | **{r['computing_over_new_sound']}** |"
    for r in found["continuation"]
  )
  trained = "\n".join(
    f"| {r['stage']} | {r['rows']} x {r['length']} | {r['ms']} | **{r['share_of_matrix_rate']}** |"
    for r in found["training"]
  )
  return f"""The paper's stages with random weights, bfloat16, on one GPU that reads \
{found["read_gb_per_s"]} GB/s and multiplies {found["matmul_tflops"]} TFLOP/s.

| rows of the coarse stage | ms a token | tokens/s | share of the bandwidth |
|---:|---:|---:|---:|
{decoded}

| prompts of 3 s continued by 7 s | s | computing over new sound |
|---:|---:|---:|
{continued}

| stage in training | batch | ms a step | share of the matrix rate |
|---|---:|---:|---:|
{trained}"""
