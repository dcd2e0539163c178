"""What of the words is left when all but the semantic tokens is sampled anew.

A recognizer hears the recording, the recording through the codec, and what the acoustic stages make
of its true semantic tokens. Recognizers differ: the gaps between the three are what to read.

Source: AudioLM, table II: word errors 2.5, 2.6 and 6.0 %, character errors 0.8, 0.9 and 3.4 %.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from audiolm_jax.data.manifest import clips_of_split, list_clips
from audiolm_jax.evaluation import recognition
from audiolm_jax.evaluation.clips import EvalClip, load_pieces
from audiolm_jax.evaluation.codec import through_codec
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.recognition import Recognizer
from audiolm_jax.evaluation.report import Better, ClipFigure, Row, SuiteResult, left_out
from audiolm_jax.evaluation.speech import (
  Description,
  SpeechMeasures,
  find_measures,
  opinion_figures,
  speaker_figures,
  word_figures,
)
from audiolm_jax.evaluation.transcripts import texts_of

_TOGETHER = 8  # clips sampled side by side
_PAPER = {
  "word": {"original": 0.025, "codec": 0.026, "resynthesis": 0.060},
  "character": {"original": 0.008, "codec": 0.009, "resynthesis": 0.034},
}


def run(bundle: Any, options: Options) -> SuiteResult:
  """On the clips of the split `valid` whose text is known; where none is, on all of them."""
  if options.domain is Domain.MUSIC:
    return left_out("music has no words")
  measures = find_measures(options)
  if measures.recognizer is None and find_spec("pocketsphinx") is not None:
    measures = dataclasses.replace(measures, recognizer=recognition.PocketSphinx())
  if not measures:
    return left_out("no recognizer: pip install pocketsphinx, or give --asr_model")
  listed = clips_of_split(list_clips(options.data), "valid")
  fitting = [c for c in listed if c.seconds is None or c.seconds <= options.piece_seconds]
  texts = texts_of(fitting, options.data)
  # A reading of PocketSphinx is no reference: it errs on a third of the words of a recording.
  if not texts and not (options.asr_model or measures.opinion or measures.speaker):
    return left_out(f"no valid clip of {options.data} says what is said in it")
  clips = load_pieces(
    options.data,
    "valid",
    bundle.sample_rate,
    max_clips=options.max_clips,
    piece_seconds=None if texts else options.piece_seconds,
    ids=texts or None,
    texts=texts,
    seed=options.seed,
  )
  if not texts and not options.asr_model:
    measures = dataclasses.replace(measures, recognizer=None)
  sounds = _kinds_of_sound(bundle, clips, options.seed)
  return resynthesis_suite(measures, clips, sounds, bundle.sample_rate)


def resynthesis_suite(
  measures: SpeechMeasures,
  clips: Sequence[EvalClip],
  sounds: Mapping[str, Sequence[np.ndarray]],
  sample_rate: int,
) -> SuiteResult:
  """Word and character error rates of each kind of sound, what they rise by, quality and voices.

  Args:
    measures: with a recognizer for the error rates.
    clips: their texts are what errors are counted against, or, where no clip has one, what is
      recognized in the recording.
    sounds: by kind ("original", "codec", "resynthesis"), the clips at `sample_rate`.
  """
  described = {
    kind: [measures.describe(sound, sample_rate) for sound in of_kind]
    for kind, of_kind in sounds.items()
  }
  processed = {kind: found for kind, found in described.items() if kind != "original"}
  rows, details = [], {}
  if measures.recognizer is not None:
    texts = [clip.text for clip in clips]
    rows += _word_rows(measures.recognizer, texts, described, processed)
    words = {kind: [one.words for one in found] for kind, found in described.items()}
    details = {"recognizer": measures.recognizer.name, "texts": texts, "heard": words}
  figures = opinion_figures(described)
  speakers = [clip.speaker or clip.id for clip in clips]
  for kind, found in processed.items():
    # The voice is not given to resynthesis: what is left of it was in the semantic tokens.
    better = Better.LOWER if kind == "resynthesis" else Better.HIGHER
    figures += speaker_figures({kind: found}, described["original"], speakers, better)
  rows += [figure.row("resynthesis") for figure in figures]
  return SuiteResult(rows + measures.missing_rows("resynthesis"), details)


def _word_rows(
  recognizer: Recognizer,
  texts: Sequence[str | None],
  described: Mapping[str, Sequence[Description]],
  processed: Mapping[str, Sequence[Description]],
) -> list[Row]:
  """Error rates against the texts, or against the recognizer's reading of the originals."""
  rows = []
  references = texts
  name = "{} error rate"
  if not any(texts):
    references = [one.words for one in described["original"]]
    described, name = processed, "{} error rate against the recording's reading"
  units = {"word": recognition.word_errors, "character": recognition.character_errors}
  for unit, count in units.items():
    figures = word_figures(name.format(unit), recognizer, described, references, count)
    by_kind = dict(zip(described, figures, strict=True))
    for kind, figure in by_kind.items():
      note = f"{recognizer.name}; the paper's, by another: {_PAPER[unit][kind]:.1%}"
      rows.append(dataclasses.replace(figure.row("resynthesis"), note=note))
    # Errors, of as many units.
    more = by_kind["resynthesis"].values - by_kind["codec"].values * (1, 0)
    figure = ClipFigure(f"{name.format(unit)}, resynthesis above codec", more, Better.LOWER)
    rows.append(figure.row("resynthesis"))
  return rows


def _kinds_of_sound(
  bundle: Any, clips: Sequence[EvalClip], seed: int
) -> dict[str, list[np.ndarray]]:
  made: list[np.ndarray] = []
  for first in range(0, len(clips), _TOGETHER):
    given = [clip.waveform for clip in clips[first : first + _TOGETHER]]
    done = bundle.continue_audio(given, bundle.sample_rate, mode="resynthesis", seed=seed + first)
    made += [np.asarray(result.waveform) for result in done]
  return {
    "original": [clip.waveform for clip in clips],
    "codec": [through_codec(bundle.codec, clip.waveform) for clip in clips],
    "resynthesis": made,
  }
