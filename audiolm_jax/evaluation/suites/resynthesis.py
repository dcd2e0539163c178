"""Measures the words in resynthesis: audio sampled from the semantic tokens of a recording.

A recognizer transcribes three kinds of sound: the recording ("original"), the recording after
encoding and decoding ("codec"), and the audio that the acoustic stages sample from the semantic
tokens of the recording ("resynthesis"). Compare the differences between the three error rates,
because the rates of different recognizers are not comparable.

Source: AudioLM, table II: for these kinds of sound, word error rates of 2.5, 2.6 and 6.0 %, and
character error rates of 0.8, 0.9 and 3.4 %.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

import numpy as np

from audiolm_jax.bundles import Bundle
from audiolm_jax.data.manifest import clips_of_split, list_clips
from audiolm_jax.evaluation import recognition, speech
from audiolm_jax.evaluation.clips import EvalClip, load_pieces
from audiolm_jax.evaluation.codec import through_codec
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import Row, SuiteResult, row_of, skipped
from audiolm_jax.evaluation.transcripts import texts_of

CHARACTER_ERRORS = Metric(
  "character_error_rate", "character error rate against the text", Better.LOWER
)
CHARACTER_CHANGES = Metric(
  "character_change_rate", "character error rate against the recognized recording", Better.LOWER
)
_BATCH_SIZE = 8  # clips that are sampled together
_PAPER_WORDS = {"original": 0.025, "codec": 0.026, "resynthesis": 0.060}
_PAPER_CHARACTERS = {"original": 0.008, "codec": 0.009, "resynthesis": 0.034}


def run(bundle: Bundle, options: Options) -> SuiteResult:
  """Resynthesizes clips of the split `valid`.

  If clips of at most `piece_seconds` or of unknown duration have transcripts, only these clips are
  used. Otherwise pieces of all clips are used.
  """
  measures = speech.find_measures(options)
  if measures.recognizer is None and find_spec("pocketsphinx") is not None:
    measures = dataclasses.replace(measures, recognizer=recognition.PocketSphinx())
  if not measures:
    return skipped("it needs a recognizer: pip install pocketsphinx, or give --asr_model")
  listed = clips_of_split(list_clips(options.data), "valid")
  fitting = [c for c in listed if c.seconds is None or c.seconds <= options.piece_seconds]
  texts = texts_of(fitting, options.data)
  # The output of PocketSphinx is not a reference: a third of its words for recordings are wrong.
  if not texts and not (options.asr_model or measures.opinion or measures.speaker):
    return skipped(f"it needs transcripts or --asr_model: no valid clip of {options.data} has one")
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
  measures: speech.SpeechMeasures,
  clips: Sequence[EvalClip],
  sounds: Mapping[str, Sequence[np.ndarray]],
  sample_rate: int,
) -> SuiteResult:
  """Measures the error rates, quality and voices of each kind of sound.

  Args:
    measures: the available networks; without a recognizer there are no error rates.
    clips: clips whose texts are the references of the error rates. If no clip has a text, the words
      recognized in the recordings are the references.
    sounds: waveforms of the clips by kind of sound: "original", "codec" and "resynthesis".
    sample_rate: sample rate of the sounds in Hz.
  """
  described = measures.describe_all(sounds, sample_rate)
  processed = {kind: found for kind, found in described.items() if kind != "original"}
  rows, details = [], {}
  if measures.recognizer is not None:
    texts = [clip.text for clip in clips]
    rows += _error_rows(measures.recognizer, texts, described, processed)
    words = {kind: [one.words for one in found] for kind, found in described.items()}
    details = {"recognizer": measures.recognizer.name, "texts": texts, "recognized": words}
  rows += speech.opinion_rows(described)
  speakers = [clip.speaker or clip.id for clip in clips]
  for kind, found in processed.items():
    # Resynthesis does not receive the voice; a similar voice comes from the semantic tokens alone.
    better = Better.LOWER if kind == "resynthesis" else Better.HIGHER
    rows += speech.speaker_rows({kind: found}, described["original"], speakers, better)
  return SuiteResult(rows + measures.missing_rows(), details)


def _error_rows(
  recognizer: recognition.Recognizer,
  texts: Sequence[str | None],
  described: Mapping[str, Sequence[speech.Description]],
  processed: Mapping[str, Sequence[speech.Description]],
) -> list[Row]:
  """Returns error rates against the texts; without texts, against the words of the originals."""
  references, words, characters = texts, speech.WORD_ERRORS, CHARACTER_ERRORS
  if not any(texts):
    references = [one.words for one in described["original"]]
    described, words, characters = processed, speech.WORD_CHANGES, CHARACTER_CHANGES
  rows = []
  for metric, count, paper in (
    (words, recognition.word_errors, _PAPER_WORDS),
    (characters, recognition.character_errors, _PAPER_CHARACTERS),
  ):
    found = speech.word_rows(metric, recognizer, described, references, count)
    by_kind = dict(zip(described, found, strict=True))
    for kind, row in by_kind.items():
      note = f"{recognizer.name}; the paper's, by another: {paper[kind]:.1%}"
      rows.append(dataclasses.replace(row, note=note))
    # The difference of the errors, divided by the same number of words or characters.
    rise = by_kind["resynthesis"].clip_values - by_kind["codec"].clip_values * (1, 0)
    rows.append(row_of(metric, rise, "resynthesis above codec"))
  return rows


def _kinds_of_sound(
  bundle: Bundle, clips: Sequence[EvalClip], seed: int
) -> dict[str, list[np.ndarray]]:
  made: list[np.ndarray] = []
  for first in range(0, len(clips), _BATCH_SIZE):
    batch = [clip.waveform for clip in clips[first : first + _BATCH_SIZE]]
    results = bundle.continue_audio(
      batch, bundle.sample_rate, mode="resynthesis", seed=seed + first
    )
    made += [np.asarray(result.waveform) for result in results]
  return {
    "original": [clip.waveform for clip in clips],
    "codec": [through_codec(bundle.codec, clip.waveform) for clip in clips],
    "resynthesis": made,
  }
