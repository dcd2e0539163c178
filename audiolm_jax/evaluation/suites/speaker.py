"""Measures speaker identification by a classifier, as in the AudioLM paper.

This suite trains the classifier on the codec's output. The classifier then identifies the speakers
of three kinds of sound: recordings after the codec, audio that the acoustic stages sample from the
semantic tokens of recordings, and continuations. Accuracy by chance is one divided by the number of
speakers.

Source: AudioLM, table III: accuracies of 100 %, 3.2 % and 92.6 % among 291 speakers.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax.bundles import Bundle
from audiolm_jax.core.errors import DataError
from audiolm_jax.data.manifest import list_clips, read_clip
from audiolm_jax.evaluation.codec import through_codec
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import Row, SuiteResult, row_of
from audiolm_jax.evaluation.speaker_classifier import SpeakerClassifier, fit_speaker_classifier
from audiolm_jax.evaluation.statistics import exact

SPEAKER_FOUND = Metric("speaker_found", "speaker found")
# Resynthesis does not receive the voice: a found speaker comes from the semantic tokens alone.
_FOUND_IN_RESYNTHESIS = dataclasses.replace(SPEAKER_FOUND, better=Better.LOWER)
CHANCE = Metric("speaker_chance", "chance")
_PAPER = {"codec": 1.0, "resynthesis": 0.032, "continuation": 0.926}


def run(bundle: Bundle, options: Options) -> SuiteResult:
  """Trains the classifier, and tests it on held-out halves of clips by different speakers."""
  rate = bundle.sample_rate
  waveforms, speakers, held_out = _halves(options, rate)
  classifier = fit_speaker_classifier(
    [through_codec(bundle.codec, waveform) for waveform in waveforms],
    speakers,
    steps=options.speaker_steps,
    seed=options.seed,
  )
  sounds: dict[str, list[tuple[str, np.ndarray]]] = {kind: [] for kind in _PAPER}
  prompt = round(options.prompt_seconds * rate)
  for number, (speaker, waveform) in enumerate(held_out[: options.max_continuations]):
    seed = options.seed + number
    same = bundle.continue_audio(waveform, rate, mode="resynthesis", seed=seed, prompt_seconds=None)
    new = bundle.continue_audio(
      waveform[:prompt],
      rate,
      duration=options.duration,
      prompt_audio="none",
      seed=seed,
      prompt_seconds=None,
    )
    sounds["codec"].append((speaker, through_codec(bundle.codec, waveform)))
    sounds["resynthesis"].append((speaker, np.asarray(same.waveform)))
    sounds["continuation"].append((speaker, np.asarray(new.waveform)))
  return speaker_suite(classifier, sounds)


def speaker_suite(
  classifier: SpeakerClassifier,
  sounds: Mapping[str, Sequence[tuple[str, Float[np.ndarray, "_"]]]],
) -> SuiteResult:
  """Measures how often the classifier finds the true speaker.

  Args:
    classifier: the trained classifier.
    sounds: pairs of a speaker and a clip that the classifier was not trained on, by kind of sound:
      "codec", "resynthesis" and "continuation".

  Raises:
    AudioError: a clip is shorter than 0.1 s.
  """
  rows, details = [], {}
  count = len(classifier.speakers)
  for kind, clips in sounds.items():
    found = [(speaker, classifier.identify(clip)) for speaker, clip in clips]
    hits = [float(speaker == identified) for speaker, identified in found]
    metric = _FOUND_IN_RESYNTHESIS if kind == "resynthesis" else SPEAKER_FOUND
    note = f"the paper's: {_PAPER[kind]:.1%} among 291" if kind in _PAPER else ""
    rows.append(row_of(metric, hits, f"among {count}, {kind}", note=note))
    details[kind] = found
  rows.append(Row(CHANCE, exact(1 / count)))
  return SuiteResult(rows, {"found": details})


def _halves(
  options: Options, sample_rate: int
) -> tuple[list[np.ndarray], list[str], list[tuple[str, np.ndarray]]]:
  """Returns waveforms and speakers to train on, and a held-out clip of every speaker.

  Clips are cut to `piece_seconds`, and clips that are shorter than two prompts are ignored. The
  held-out clip is the first half of the speaker's first clip.

  Raises:
    DataError: fewer than two speakers have a clip that is long enough.
  """
  least = 2 * options.prompt_seconds
  waveforms, speakers, held_out = [], [], {}
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
    waveforms.append(waveform)
    speakers.append(clip.speaker)
  if len(held_out) < 2:
    raise DataError(
      f"{options.data} has {len(held_out)} speakers with a clip of {least:g} s; at least 2 are "
      "needed"
    )
  names = sorted(held_out)
  order = np.random.default_rng(options.seed).permutation(len(names))
  return waveforms, speakers, [(names[i], held_out[names[i]]) for i in order]
