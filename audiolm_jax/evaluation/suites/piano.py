"""Continuations of piano beside what really followed: harmony, key, rhythm, notes.

The beginnings of other recordings' continuations, set beside the same prompts, show what each
figure is by chance. With another bundle, meant to be the same one whose coarse stage has no
semantic tokens, both continue the same prompts with the same seeds.

Source: AudioLM, the piano experiment: people preferred the whole system to its acoustic stages
alone in 83.3 % of pairs.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from audiolm_jax import bundles
from audiolm_jax.codec.interface import Codec
from audiolm_jax.evaluation.clips import EvalClip, pieces_to_continue, recording_of
from audiolm_jax.evaluation.codec import through_codec
from audiolm_jax.evaluation.music import (
  AGREEMENT,
  MusicStatistics,
  agreement,
  estimate_key,
  music_statistics,
)
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.report import Better, Row, SuiteResult, left_out
from audiolm_jax.evaluation.statistics import defined_mean, mean_estimate
from audiolm_jax.evaluation.suites.continuation import Continue, continuer, save_sounds

CONTINUATION, REAL, ANOTHER = "continuation", "real", "another piece's"
_LEVELS = {
  "onsets per second": "onsets_per_second",
  "pulse clarity": "pulse_clarity",
  "pitch range, semitones": "pitch_range_semitones",
  "notes per onset": "notes_per_onset",
}


def run(bundle: Any, options: Options) -> SuiteResult:
  """Continues new prompts by the bundle and, if one is given, by another one."""
  if options.domain is not Domain.MUSIC:
    return left_out("speech has no key; --domain=music is for music")
  rate = bundle.sample_rate
  # A piece is cut no shorter than what is compared.
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
  for kind, name in zip(continuers, ("piano", "piano_other"), strict=False):
    captions = [f"piano, {clip.id}: prompt and {kind}" for clip in clips]
    made = result.details["continuations"][kind]
    sounds |= save_sounds(options.output_dir, name, made, captions, rate)
  del result.details["continuations"]
  result.details["sounds"] = sounds
  return result


def piano_suite(
  codec: Codec,
  continuers: Mapping[str, Continue],
  clips: Sequence[EvalClip],
  *,
  prompt_seconds: float = 4.0,
  seed: int = 0,
) -> SuiteResult:
  """Sets continuations, real ones and those of other recordings beside their prompts.

  What is real passes through the codec too, so that its artefacts give nothing away.

  Args:
    continuers: by kind. The first is compared with the second, if there is one.
    clips: each at least as long as prompt and continuation.
  """
  rate = codec.spec.sample_rate
  cut = round(prompt_seconds * rate)
  prompts, real = [], []
  made: dict[str, list[np.ndarray]] = {kind: [] for kind in continuers}
  heard: dict[str, list[MusicStatistics]] = {kind: [] for kind in continuers}
  for index, clip in enumerate(clips):
    decoded = through_codec(codec, clip.waveform)
    prompts.append(music_statistics(decoded[:cut], rate))
    length = len(clip.waveform) - cut
    for kind, continue_prompt in continuers.items():
      waveform = continue_prompt(clip.waveform[:cut], seed + index).waveform
      length = min(length, len(waveform))
      made[kind].append(np.concatenate([decoded[:cut], waveform]))
      heard[kind].append(music_statistics(waveform, rate))
    real.append(music_statistics(decoded[cut : cut + length], rate))
  heard[REAL] = real
  agreements = {
    kind: _columns([agreement(s, p) for s, p in zip(sounds, prompts, strict=True)])
    for kind, sounds in heard.items()
  }
  recordings = [recording_of(clip) for clip in clips]
  if len(set(recordings)) > 1:
    agreements[ANOTHER] = _columns(_agreements_of_others(prompts, real, recordings))
  rows = _agreement_rows(agreements) + _level_rows({"prompt": prompts, **heard})
  if len(continuers) > 1:
    one, other = list(continuers)[:2]
    rows += _comparison_rows(agreements, heard, one, other)
  details = {
    "clips": [clip.id for clip in clips],
    "recordings": len(set(recordings)),
    "keys": {
      kind: [str(estimate_key(s.chroma)) for s in sounds]
      for kind, sounds in {"prompt": prompts, **heard}.items()
    },
    "agreements": agreements,
    "continuations": made,
  }
  return SuiteResult(rows, details)


Columns = dict[str, Float[np.ndarray, " prompts"]]


def _columns(agreements: Sequence[Mapping[str, float]]) -> Columns:
  return {figure: np.array([row[figure] for row in agreements]) for figure in AGREEMENT}


def _agreements_of_others(
  prompts: Sequence[MusicStatistics], real: Sequence[MusicStatistics], recordings: Sequence[str]
) -> list[dict[str, float]]:
  """For each prompt, the mean agreement of what follows the prompts of other recordings."""
  means = []
  for prompt, recording in zip(prompts, recordings, strict=True):
    others = [s for s, name in zip(real, recordings, strict=True) if name != recording]
    columns = _columns([agreement(sound, prompt) for sound in others])
    means.append({figure: defined_mean(values) for figure, values in columns.items()})
  return means


def _agreement_rows(agreements: Mapping[str, Columns]) -> list[Row]:
  return [
    Row("piano", f"{figure}, {kind}", mean_estimate(columns[figure]), better)
    for figure, better in AGREEMENT.items()
    for kind, columns in agreements.items()
  ]


def _level_rows(heard: Mapping[str, Sequence[MusicStatistics]]) -> list[Row]:
  return [
    Row("piano", f"{figure}, {kind}", mean_estimate([getattr(s, name) for s in sounds]))
    for figure, name in _LEVELS.items()
    for kind, sounds in heard.items()
  ]


def _comparison_rows(
  agreements: Mapping[str, Columns],
  heard: Mapping[str, Sequence[MusicStatistics]],
  one: str,
  other: str,
) -> list[Row]:
  """By prompt, how much better one agrees with it, and which is nearer to what really followed."""
  rows = []
  for figure, better in AGREEMENT.items():
    difference = agreements[one][figure] - agreements[other][figure]
    label = f"{figure}, {one} less {other}"
    rows.append(Row("piano", label, mean_estimate(difference), better))
  to_real = {
    kind: _columns([agreement(s, r) for s, r in zip(heard[kind], heard[REAL], strict=True)])
    for kind in (one, other)
  }
  for figure, better in AGREEMENT.items():
    gain = to_real[one][figure] - to_real[other][figure]
    wins = (1 + np.sign(gain if better is Better.HIGHER else -gain)) / 2
    label = f"{figure}: {one} nearer to the real one than {other}"
    note = "ties count half; 0.5 is chance"
    rows.append(Row("piano", label, mean_estimate(wins), note=note))
  return rows
