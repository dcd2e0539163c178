"""Who is heard: the paper's classifier, trained here on what the codec gives back.

Three kinds of sound are shown to it: recordings through the codec, what the acoustic stages make of
true semantic tokens, and continuations of a prompt. Chance is one over the number of speakers.

Source: AudioLM, table III: 100 %, 3.2 % and 92.6 % among 291 speakers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from audiolm_jax.core.errors import DataError
from audiolm_jax.data.manifest import list_clips, read_clip
from audiolm_jax.evaluation.codec import through_codec
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.report import Better, Row, SuiteResult, exact, left_out
from audiolm_jax.evaluation.speaker_classifier import (
  SpeakerClassifier,
  Waveform,
  fit_speaker_classifier,
)
from audiolm_jax.evaluation.statistics import mean_estimate

_PAPER = {"codec": 1.0, "resynthesis": 0.032, "continuation": 0.926}


def run(bundle: Any, options: Options) -> SuiteResult:
  """Trains on one half of what everybody says; the other half is reconstructed, resynthesised, and
  its beginning continued."""
  if options.domain is Domain.MUSIC:
    return left_out("music has no speakers")
  rate = bundle.sample_rate
  heard, speakers, held_out = _halves(options, rate)
  classifier = fit_speaker_classifier(
    [through_codec(bundle.codec, waveform) for waveform in heard],
    speakers,
    steps=options.speaker_steps,
    seed=options.seed,
  )
  shown = {"codec": [], "resynthesis": [], "continuation": []}
  prompt = round(options.prompt_seconds * rate)
  for number, (speaker, waveform) in enumerate(held_out[: options.max_continuations]):
    given = {"seed": options.seed + number, "prompt_seconds": None}
    same = bundle.continue_audio(waveform, rate, mode="resynthesis", **given)
    new = bundle.continue_audio(
      waveform[:prompt], rate, duration=options.duration, prompt_audio="none", **given
    )
    shown["codec"].append((speaker, through_codec(bundle.codec, waveform)))
    shown["resynthesis"].append((speaker, np.asarray(same.waveform)))
    shown["continuation"].append((speaker, np.asarray(new.waveform)))
  return speaker_suite(classifier, shown)


def speaker_suite(
  classifier: SpeakerClassifier, shown: Mapping[str, Sequence[tuple[str, Waveform]]]
) -> SuiteResult:
  """How often the speaker is found, by kind of sound.

  Args:
    shown: by kind ("codec", "resynthesis", "continuation"), speakers and clips that the classifier
      has not heard. In resynthesis the voice is not given, so that a speaker who is found there was
      in the semantic tokens.
  """
  rows, details = [], {}
  chance = 1 / len(classifier.speakers)
  for kind, clips in shown.items():
    found = [(speaker, classifier.identify(clip)) for speaker, clip in clips]
    hits = [float(speaker == heard) for speaker, heard in found]
    better = Better.LOWER if kind == "resynthesis" else Better.HIGHER
    note = f"the paper's: {_PAPER[kind]:.1%} among 291" if kind in _PAPER else ""
    figure = f"speaker found among {len(classifier.speakers)}, {kind}"
    rows.append(Row("speaker", figure, mean_estimate(hits), better, note=note))
    details[kind] = found
  rows.append(Row("speaker", "chance", exact(chance)))
  return SuiteResult(rows, {"found": details})


def _halves(
  options: Options, sample_rate: int
) -> tuple[list[np.ndarray], list[str], list[tuple[str, np.ndarray]]]:
  """Of every known speaker what the classifier learns from, and the first half of one clip."""
  least = 2 * options.prompt_seconds
  heard, speakers, held_out = [], [], {}
  for clip in list_clips(options.data):
    if clip.speaker is None or (clip.seconds is not None and clip.seconds < least):
      continue
    longest = round(options.piece_seconds * sample_rate)
    waveform = read_clip(clip, sample_rate)[:longest]
    if len(waveform) < least * sample_rate:
      continue
    if clip.speaker not in held_out:
      middle = len(waveform) // 2
      held_out[clip.speaker], waveform = waveform[:middle], waveform[middle:]
    heard.append(waveform)
    speakers.append(clip.speaker)
  if len(held_out) < 2:
    raise DataError(f"{options.data} has {len(held_out)} speakers with a clip of {least:g} s")
  names = sorted(held_out)
  order = np.random.default_rng(options.seed).permutation(len(names))
  return heard, speakers, [(names[i], held_out[names[i]]) for i in order]
