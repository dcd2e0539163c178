"""Compares the speed of the parallel stage with that of a coarse and a fine stage of equal size.

The models of `gin_configs/*_stage_small.gin` with random weights, on which no time depends.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from audiolm_jax import train
from audiolm_jax.core.streams import CODES, SEMANTIC
from audiolm_jax.lm.stage import CODEBOOKS, Stage
from audiolm_jax.sampling.cascade import Cascade
from audiolm_jax.sampling.pull import Clip
from audiolm_jax.training.partitioning import unbox
from benchmarks import machine
from benchmarks.models import UNSET, TrainingStep, constant_batch

_KINDS = {
  "coarse + fine": ("coarse_stage_small", "fine_stage_small"),
  "parallel": ("parallel_stage_small",),
}
_PROMPT_SECONDS, _NEW_SECONDS = 3.0, 10.0
_CLIPS = (1, 8)
_REPEATS = 3
_SEMANTIC_RATE, _FRAME_RATE = 25, 50


def measure() -> dict[str, Any]:
  """Measures sampling and training of both kinds in turns, after a call of each that compiles."""
  found: dict[str, Any] = {}
  calls: dict[tuple[str, str], Callable[[], object]] = {}
  for kind, names in _KINDS.items():
    settings = [train.resolve([f"gin_configs/{name}.gin"], UNSET)[0] for name in names]
    models = [one["model"] for one in settings]
    batches = [constant_batch(one["train_dataset"]) for one in settings]
    stages = {
      model.config.spec.name: _random_stage(model, batch)
      for model, batch in zip(models, batches, strict=True)
    }
    cascade = Cascade(stages)
    steps = [TrainingStep(*pair) for pair in zip(models, batches, strict=True)]
    found[kind] = {
      "parameters": sum(_size(stage) for stage in stages.values()),
      "audio_seconds_per_step": [
        one["train_dataset"].batch_size * model.config.spec.crop_seconds
        for one, model in zip(settings, models, strict=True)
      ],
    }
    spec = models[0].config.spec
    for count in _CLIPS:
      clips = [_clip(spec.codebook_size, spec.num_clusters) for _ in range(count)]
      calls[kind, f"sample {count}"] = functools.partial(cascade.sample, clips)
    for name, step in zip(names, steps, strict=True):
      calls[kind, f"train {name}"] = step.step
  for (kind, what), seconds in machine.medians_in_turns(calls, _REPEATS).items():
    found[kind][what] = round(seconds, 3)
  return found


def text(found: dict[str, Any]) -> str:
  """Returns the result in Markdown."""
  rows = []
  for kind, r in found.items():
    steps = [value for name, value in r.items() if name.startswith("train")]
    # Both stages see each second of audio.
    per_second = sum(t / s for t, s in zip(steps, r["audio_seconds_per_step"], strict=True))
    rows.append(
      f"| {kind} | {r['parameters'] / 1e6:.1f} | {r['sample 1'] / _NEW_SECONDS:.3f} "
      f"| {8 * _NEW_SECONDS / r['sample 8']:.1f} | {1 / per_second:.1f} |"
    )
  body = "\n".join(rows)
  return f"""Models of `gin_configs/*_stage_small.gin` with random weights, {_NEW_SECONDS:g} s \
after a prompt of {_PROMPT_SECONDS:g} s, given semantic tokens; without codec and semantic stage.

| acoustic stages | M parameters | computing over new sound | 8 clips, s of sound a second \
| training, s of audio a second |
|---|---:|---:|---:|---:|
{body}"""


def _random_stage(model: Any, batch: dict[str, np.ndarray]) -> Stage:
  state = unbox(jax.jit(model.init)(jax.random.key(0), batch))
  params = dict(state.params)
  if CODEBOOKS in params:
    shape = params[CODEBOOKS].shape
    params[CODEBOOKS] = np.random.default_rng(0).standard_normal(shape, np.float32)
  spec = model.config.spec
  return Stage(spec, model.config.transformer, jax.device_get(spec.inference_params(params)))


def _size(stage: Stage) -> int:
  learned = {name: value for name, value in stage.params.items() if name != CODEBOOKS}
  return sum(np.size(leaf) for leaf in jax.tree.leaves(learned))


def _clip(codebook_size: int, num_clusters: int) -> Clip:
  """Returns a clip of random semantic tokens, whose codes are known in the prompt."""
  random = np.random.default_rng(0)
  seconds = _PROMPT_SECONDS + _NEW_SECONDS
  prompt = (round(_PROMPT_SECONDS * _FRAME_RATE), 12)
  return Clip(
    round(seconds * _FRAME_RATE),
    prompt={CODES: random.integers(codebook_size, size=prompt, dtype=np.int32)},
    given={
      SEMANTIC: random.integers(num_clusters, size=round(seconds * _SEMANTIC_RATE), dtype=np.int32)
    },
  )
