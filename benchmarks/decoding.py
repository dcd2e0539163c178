"""Measures the time per token of the paper's coarse stage against the memory bandwidth.

A decoding step reads the weights that it needs and the cache once, which limits its speed.
"""

import itertools
import time
from typing import Any

import jax
import numpy as np

from audiolm_jax.lm import stages
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.sampling.decoder import Prompt, StageSampler
from benchmarks import machine
from benchmarks.models import random_stage

_PROMPT = 60
_TOKENS = 2176
_CAPACITY = 2336  # tokens that the cache has room for then
_INTERVAL = 256  # tokens


def measure() -> dict[str, Any]:
  """Measures milliseconds by position at batch 1, share of the bandwidth, and gain of batch 8."""
  config = TransformerConfig(dropout_rate=0.0)
  sampler = StageSampler(random_stage(stages.coarse_stage(), config))
  read_before = machine.read_rate()
  curve = by_position(sampler, rows=1)
  read = (read_before + machine.read_rate()) / 2
  num_bytes = bytes_per_step(sampler, rows=1)
  middle = curve[len(curve) // 2]["ms"] / 1e3
  one, eight = (tokens_per_second(sampler, rows) for rows in (1, 8))
  return {
    "parameters": sum(x.size for x in jax.tree.leaves(sampler.params)),
    "dtype": sampler.program.config.dtype,
    "by_position": curve,
    "bytes_per_step": num_bytes,
    "read_gb_per_s": round(read / 1e9, 1),
    "share_of_bandwidth": round(num_bytes / middle / read, 2),
    "late_over_early": round(curve[-1]["ms"] / curve[0]["ms"], 3),
    "tokens_per_second_batch_1": round(one, 1),
    "tokens_per_second_batch_8": round(eight, 1),
    "batch_8_over_1": round(eight / one, 2),
  }


def bytes_per_step(sampler: StageSampler, rows: int) -> int:
  """Returns the bytes that a decoding step reads: the weights, and the cache of each row."""
  weights = sum(x.nbytes for x in jax.tree.leaves(sampler.params)) - _unread(sampler)
  return weights + rows * _CAPACITY * sampler.program.config.cache_bytes_per_token


def _unread(sampler: StageSampler) -> int:
  """Returns the bytes of embeddings and output rows that one step does not read."""
  rows, size = sampler.params["embedding"].nbytes, sampler.spec.layout.vocab_size
  needed = 1 + sampler.spec.codebook_size
  return 2 * rows - rows * needed // size


def by_position(sampler: StageSampler, rows: int) -> list[dict[str, float]]:
  """Measures milliseconds per token by position, from a short prompt to the length of the stage."""
  _draw(sampler, rows, _TOKENS)
  marks: list[tuple[int, float]] = []

  def mark(done: int, _: int) -> None:
    # The first interval, up to the first mark, includes the prefill.
    if done and (done % _INTERVAL == 0 or done == _TOKENS):
      marks.append((done, time.perf_counter()))

  _draw(sampler, rows, _TOKENS, mark)
  return [
    {"position": _PROMPT + (a + b) // 2, "ms": round(1e3 * (t1 - t0) / (b - a), 2)}
    for (a, t0), (b, t1) in itertools.pairwise(marks)
  ]


def tokens_per_second(sampler: StageSampler, rows: int) -> float:
  """Measures tokens per second of all rows, for 512 tokens of which 448 are sampled."""
  return rows * 448 / machine.fastest(lambda: _draw(sampler, rows, 448), repeats=3)


def _draw(sampler: StageSampler, rows: int, count: int, progress=None) -> np.ndarray:
  tokens = np.full(_PROMPT, sampler.spec.layout.vocab_size // 2, np.int32)
  prompt = Prompt(tokens, np.zeros(_PROMPT, np.int32), 1)
  keys = jax.random.split(jax.random.key(0), rows)
  return sampler.sample([prompt] * rows, count, keys, progress=progress)


def text(found: dict[str, Any]) -> str:
  """Returns the result in Markdown."""
  rows = "\n".join(f"| {p['position']} | {p['ms']:.1f} |" for p in found["by_position"])
  return f"""The paper's coarse stage, {found["parameters"] / 1e6:.0f} M parameters of random \
values in {found["dtype"]}, sampled by `StageSampler` with room for 2336 tokens.

- share of the memory's bandwidth ({found["read_gb_per_s"]} GB/s, \
{found["bytes_per_step"] / 1e6:.0f} MB a token): **{found["share_of_bandwidth"]}**
- the last tokens against the first: **{found["late_over_early"]}**
- batch 8 against batch 1 at 512 tokens: **{found["batch_8_over_1"]}** \
({found["tokens_per_second_batch_8"]} and {found["tokens_per_second_batch_1"]} tokens/s)

| position | ms a token |
|---:|---:|
{rows}"""
