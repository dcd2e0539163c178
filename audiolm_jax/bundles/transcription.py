"""Recognizes the words of a recording with the transcript stage, which reads semantic tokens."""

import numpy as np
from jaxtyping import Num

from audiolm_jax.bundles import pauses
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
  parts = pauses.pieces(samples, semantic, spec.clip_steps)
  (source,) = spec.reads
  sampled = bundle.transcript_cascade.sample(
    [Clip(None, given={source.key: part}) for part in parts],
    seed=seed,
    options=options,
  )
  rows = sampled.streams[TRANSCRIPT.key]
  return " ".join(texts.of_code_points(row).strip() for row in rows)


def transcript_stage(bundle: Bundle) -> ConditionedSpec:
  """Returns the spec of the stage that recognizes speech.

  Raises:
    BundleError: the bundle has no transcript stage.
  """
  for stage in bundle.stages.values():
    if isinstance(stage.spec, ConditionedSpec) and stage.spec.is_transcript:
      return stage.spec
  raise BundleError(
    f"the bundle {bundle.name} has no transcript stage; train one with "
    "gin_configs/transcript_stage_small.gin and add it with export_bundle "
    "--stage_dir transcript=DIR"
  )
