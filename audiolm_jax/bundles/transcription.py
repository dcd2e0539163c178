"""Recognizes the words of a recording: its semantic tokens, then the transcript stage."""

import numpy as np
from jaxtyping import Float, Num

from audiolm_jax.bundles.bundle import Bundle
from audiolm_jax.bundles.settings import prepared_prompts
from audiolm_jax.core import arguments, ranges
from audiolm_jax.core.errors import BundleError
from audiolm_jax.core.streams import TRANSCRIPT
from audiolm_jax.lm import text as texts
from audiolm_jax.lm.conditioned import ConditionedSpec
from audiolm_jax.sampling.cascade import CascadeOptions, Clip
from audiolm_jax.sampling.logits import SamplingOptions


def transcribe(
  bundle: Bundle,
  waveform: Num[np.ndarray, "*channels samples"],
  sample_rate: int,
  *,
  temperature: float,
  seed: int,
  channel_axis: int | None,
) -> str:
  """Implements `Bundle.transcribe`."""
  spec = transcript_stage(bundle)
  options = CascadeOptions({spec.name: SamplingOptions(temperature)})
  seed = arguments.whole(seed, "seed", ranges.SEEDS)
  (samples,), _ = prepared_prompts(
    bundle, waveform, sample_rate, None, channel_axis, 1, "the recording"
  )
  semantic = bundle.semantic.tokenize_long(samples)
  places = cuts(loudness(samples, len(semantic)), spec.clip_steps)
  (source,) = spec.reads
  sampled = bundle.transcript_cascade.sample(
    [Clip(None, given={source.key: part}) for part in np.split(semantic, places)],
    seed=seed,
    options=options,
  )
  rows = sampled.streams[TRANSCRIPT.key]
  return " ".join(texts.of_code_points(row).strip() for row in rows)


def transcript_stage(bundle: Bundle) -> ConditionedSpec:
  """Returns the spec of the stage that recognizes speech.

  Raises:
    BundleError: the bundle has none.
  """
  for stage in bundle.stages.values():
    if isinstance(stage.spec, ConditionedSpec) and stage.spec.is_transcript:
      return stage.spec
  raise BundleError(
    f"the bundle {bundle.name} has no transcript stage; train one with "
    "gin_configs/transcript_stage_small.gin and add it with export_bundle "
    "--stage_dir transcript=DIR"
  )


def loudness(waveform: Float[np.ndarray, "samples"], steps: int) -> Float[np.ndarray, "steps"]:
  """Returns the root mean square of the samples of each semantic token."""
  edges = np.linspace(0, len(waveform), steps + 1).astype(np.int64)
  squares = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=np.float64))])
  return np.sqrt(np.diff(squares[edges]) / np.maximum(1, np.diff(edges)))


def cuts(levels: Float[np.ndarray, "steps"], longest: int) -> list[int]:
  """Returns the steps at which to cut a recording so that no part exceeds `longest` steps.

  Each cut is at the quietest step of the second half of the part that it ends.
  """
  found: list[int] = []
  start = 0
  while len(levels) - start > longest:
    first = start + max(1, longest // 2)
    start = first + int(np.argmin(levels[first : start + longest]))
    found.append(start)
  return found
