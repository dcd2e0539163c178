"""Compares continuations of piano music with the real continuations: harmony, key, rhythm, notes.

Real continuations of other recordings, compared with the prompts, show the value of each metric by
chance. An optional second bundle continues the same prompts with the same seeds. The
second bundle should equal the first, but have a coarse stage that reads no semantic tokens.

Source: AudioLM, the piano experiment: people preferred the whole system to its acoustic stages
alone in 83.3 % of pairs.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax import bundles
from audiolm_jax.bundles import Bundle
from audiolm_jax.codec.interface import Codec
from audiolm_jax.evaluation.clips import EvalClip, pieces_to_continue, recording_of
from audiolm_jax.evaluation.codec import through_codec
from audiolm_jax.evaluation.generation import ContinueFn, continuer, save_sounds
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.music import (
  AGREEMENT,
  MusicStatistics,
  agreement,
  estimate_key,
  music_statistics,
)
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import Row, SuiteResult, row_of
from audiolm_jax.evaluation.statistics import defined_mean

CONTINUATION, REAL, ANOTHER = "continuation", "real", "another piece's"
STATISTICS = (  # the keys are names of attributes of `MusicStatistics`
  Metric("onsets_per_second", "onsets per second"),
  Metric("pulse_clarity", "pulse clarity"),
  Metric("note_range_semitones", "pitch range of the notes", unit="semitones"),
  Metric("notes_per_onset", "notes per onset"),
)
NEARER = {
  metric: Metric(f"{metric.key}_nearer", f"{metric.title} nearer to the real one")
  for metric in AGREEMENT
}

Agreements = dict[Metric, Float[np.ndarray, " prompts"]]


def run(bundle: Bundle, options: Options) -> SuiteResult:
  """Continues prompts from held-out clips with the bundle and with the other bundle, if given."""
  rate = bundle.sample_rate
  # A piece is at least as long as a prompt and its continuation.
  seconds = math.ceil(options.prompt_seconds + options.duration)
  longer = dataclasses.replace(options, piece_seconds=max(options.piece_seconds, seconds))
  clips = pieces_to_continue(longer, rate, options.duration)
  continuers = {CONTINUATION: continuer(bundle, options.duration, rate)}
  if options.other_bundle:
    other = bundles.load_bundle(options.other_bundle)
    continuers[f"{other.name} continuation"] = continuer(other, options.duration, rate)
  result = piano_suite(
    bundle.codec, continuers, clips, prompt_seconds=options.prompt_seconds, seed=options.seed
  )
  sounds = {}
  made = result.details.pop("continuations")
  for (kind, of_kind), name in zip(made.items(), ("piano", "piano_other"), strict=False):
    captions = [f"piano, {clip.id}: prompt and {kind}" for clip in clips]
    sounds |= save_sounds(options.output_dir, name, of_kind, captions, rate)
  return dataclasses.replace(result, sounds=sounds)


def piano_suite(
  codec: Codec,
  continuers: Mapping[str, ContinueFn],
  clips: Sequence[EvalClip],
  *,
  prompt_seconds: float = 4.0,
  seed: int = 0,
) -> SuiteResult:
  """Compares sampled and real continuations with the prompts.

  For comparison, real continuations of other recordings are compared with the prompts too.

  The codec encodes and decodes the real continuations too, so that its artefacts do not distinguish
  real from sampled continuations.

  Args:
    codec: the bundle's codec.
    continuers: functions that continue a prompt, by kind of continuation. If there are several, the
      continuations by the first two functions are compared.
    clips: clips that are at least as long as prompt and continuation.
    prompt_seconds: length of a prompt in seconds.
    seed: seed of sampling.
  """
  rate = codec.spec.sample_rate
  cut = round(prompt_seconds * rate)
  prompts, real = [], []
  made: dict[str, list[np.ndarray]] = {kind: [] for kind in continuers}
  found: dict[str, list[MusicStatistics]] = {kind: [] for kind in continuers}
  for index, clip in enumerate(clips):
    decoded = through_codec(codec, clip.waveform)
    prompts.append(music_statistics(decoded[:cut], rate))
    length = len(clip.waveform) - cut
    for kind, continue_prompt in continuers.items():
      waveform = continue_prompt(clip.waveform[:cut], seed + index).waveform
      length = min(length, len(waveform))
      made[kind].append(np.concatenate([decoded[:cut], waveform]))
      found[kind].append(music_statistics(waveform, rate))
    real.append(music_statistics(decoded[cut : cut + length], rate))
  found[REAL] = real
  agreements = {kind: _agreements(sounds, prompts) for kind, sounds in found.items()}
  recordings = [recording_of(clip) for clip in clips]
  if len(set(recordings)) > 1:
    agreements[ANOTHER] = _agreements_of_others(prompts, real, recordings)
  every = {"prompt": prompts, **found}
  rows = [
    row_of(metric, of_kind[metric], kind)
    for metric in AGREEMENT
    for kind, of_kind in agreements.items()
  ]
  rows += [
    row_of(metric, [getattr(s, metric.key) for s in sounds], kind)
    for metric in STATISTICS
    for kind, sounds in every.items()
  ]
  if len(continuers) > 1:
    one, other = list(continuers)[:2]
    rows += _comparison_rows(agreements, found, one, other)
  details = {
    "clips": [clip.id for clip in clips],
    "recordings": len(set(recordings)),
    "keys": {kind: [str(estimate_key(s.chroma)) for s in sounds] for kind, sounds in every.items()},
    "agreements": agreements,
    "continuations": made,
  }
  return SuiteResult(rows, details)


def _agreements(
  sounds: Sequence[MusicStatistics], references: Sequence[MusicStatistics]
) -> Agreements:
  """Returns the agreement of each sound with its reference."""
  found = [agreement(sound, other) for sound, other in zip(sounds, references, strict=True)]
  return {metric: np.array([one[metric] for one in found]) for metric in AGREEMENT}


def _agreements_of_others(
  prompts: Sequence[MusicStatistics], real: Sequence[MusicStatistics], recordings: Sequence[str]
) -> Agreements:
  """Returns the mean agreement of each prompt with real continuations of other recordings."""
  means: list[dict[Metric, float]] = []
  for prompt, recording in zip(prompts, recordings, strict=True):
    others = [s for s, name in zip(real, recordings, strict=True) if name != recording]
    of_others = _agreements(others, [prompt] * len(others))
    means.append({metric: defined_mean(values) for metric, values in of_others.items()})
  return {metric: np.array([mean[metric] for mean in means]) for metric in AGREEMENT}


def _comparison_rows(
  agreements: Mapping[str, Agreements],
  found: Mapping[str, Sequence[MusicStatistics]],
  one: str,
  other: str,
) -> list[Row]:
  """Returns rows that compare the continuations of the kinds `one` and `other`.

  The rows of `AGREEMENT` have the agreement of `one` with the prompt minus the agreement of
  `other`. The rows of `NEARER` have the share of prompts for which `one` is nearer to the real
  continuation.
  """
  rows = []
  for metric in AGREEMENT:
    difference = agreements[one][metric] - agreements[other][metric]
    rows.append(row_of(metric, difference, f"{one} less {other}"))
  to_real = {kind: _agreements(found[kind], found[REAL]) for kind in (one, other)}
  for metric, nearer in NEARER.items():
    gain = to_real[one][metric] - to_real[other][metric]
    wins = (1 + np.sign(gain if metric.better is Better.HIGHER else -gain)) / 2
    note = "ties count half; 0.5 is chance"
    rows.append(row_of(nearer, wins, f"{one} than {other}", note=note))
  return rows
