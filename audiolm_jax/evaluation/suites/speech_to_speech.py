"""Measures speech to speech in a given voice: words, values, quality and voice.

The source recording of each pair is converted in a voice that is not that of the target. If there
are clips without sources, the voices come from these clips. For comparison, both recordings of the
pair are resynthesized in the same voice from their semantic tokens: the source, which shows what
the conversion changes, and the target, of which only the acoustic stages cause the errors.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from audiolm_jax.bundles import Bundle
from audiolm_jax.data import spoken_values
from audiolm_jax.data.manifest import clips_of_split, list_clips, read_clip, source_of
from audiolm_jax.evaluation import recognition, speech
from audiolm_jax.evaluation.clips import EvalClip, valid_clips
from audiolm_jax.evaluation.metric import Metric
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import Row, SuiteResult, row_of, skipped
from audiolm_jax.evaluation.suites.speaking import pairs_with_voices, text_error_rows
from audiolm_jax.evaluation.suites.voice import Resynthesize, resynthesizer
from audiolm_jax.evaluation.transcripts import read_field, texts_of

CONVERTED = "speech to speech"
OF_SOURCE = "resynthesis of the source"
OF_TARGET = "resynthesis of the target"
SOURCE = "source recording"
_LEAST_SECONDS = 0.5  # minimum length of a voice
VALUE_RIGHT = Metric("value_right", "the recognized words state the right value")


class SpeechPair(NamedTuple):
  """A source recording and what its conversion should be.

  Attributes:
    target: the target recording; its field `source` is the group of the pair, for separate rows.
    source: waveform of the source recording, at the sample rate of the target.
    value: id of the value that the target states; None if unknown.
  """

  target: EvalClip
  source: Float[np.ndarray, " samples"]
  value: str | None = None


def run(bundle: Bundle, options: Options) -> SuiteResult:
  """Converts the source recordings of clips of the split `valid`."""
  measures = speech.find_measures(options)
  if not measures:
    return skipped("it needs --asr_model, or the packages of requirements/evaluation.txt")
  rate = bundle.sample_rate
  listed = clips_of_split(list_clips(options.data), "valid")
  sources = {clip.id: source for clip in listed if (source := source_of(clip)) is not None}
  if not sources:
    return skipped(f"it needs pairs: no valid clip of {options.data} has a source_path")
  values = read_field(options.data, "value")
  texts = texts_of(listed, options.data)
  targets = valid_clips(options, sources, texts, rate, 0.1)
  without = {clip.id for clip in listed} - set(sources)
  voices = valid_clips(options, without, texts, rate, _LEAST_SECONDS) or targets
  pairs = [
    SpeechPair(target, read_clip(sources[target.id], rate), values.get(target.id))
    for target in targets
  ]

  def convert(source: np.ndarray, voice: np.ndarray, seed: int) -> np.ndarray:
    made = bundle.speak_from(source, rate, voice=voice, prompt_seconds=None, seed=seed)
    return np.asarray(made.waveform)

  cut = round(options.prompt_seconds * rate)
  return speech_to_speech_suite(
    convert, resynthesizer(bundle), pairs, voices, cut, rate, measures, options.seed
  )


def speech_to_speech_suite(
  convert: Resynthesize,
  resynthesize: Resynthesize,
  pairs: Sequence[SpeechPair],
  voices: Sequence[EvalClip],
  cut: int,
  sample_rate: int,
  measures: speech.SpeechMeasures,
  seed: int = 0,
) -> SuiteResult:
  """Measures the words, the values, the quality and the voice of converted speech.

  Args:
    convert: function that converts a source recording in a voice.
    resynthesize: function that resynthesizes a recording in a voice.
    pairs: the pairs.
    voices: clips that provide the voices. A source is converted in a voice by another speaker than
      its target; a pair without such a voice is ignored.
    cut: maximum length of a voice in samples; the voice is the beginning of a clip in `voices`.
    sample_rate: sample rate of all waveforms in Hz.
    measures: the available networks.
    seed: seed of sampling.
  """
  chosen = list(pairs_with_voices([pair.target for pair in pairs], voices))
  if not chosen:
    return skipped("it needs a speaker whose voice is not that of the targets")
  made: dict[str, list[np.ndarray]] = {CONVERTED: [], OF_SOURCE: [], OF_TARGET: []}
  for i, j in chosen:
    voice = voices[j].waveform[:cut]
    made[CONVERTED].append(convert(pairs[i].source, voice, seed + i))
    made[OF_SOURCE].append(resynthesize(pairs[i].source, voice, seed + i))
    made[OF_TARGET].append(resynthesize(pairs[i].target.waveform, voice, seed + i))
  described = measures.describe_all(made, sample_rate)
  pairs = [pairs[i] for i, _ in chosen]
  targets = [pair.target for pair in pairs]
  recordings = {
    SOURCE: [pair.source for pair in pairs],
    speech.RECORDING: [target.waveform for target in targets],
  }
  every = {**described, **measures.describe_all(recordings, sample_rate)}
  rows: list[Row] = []
  for group in ("", *sorted({target.source for target in targets if target.source})):
    places = [k for k, target in enumerate(targets) if group in ("", target.source)]
    prefix = f"{group}, " if group else ""
    found = {prefix + kind: [of_kind[k] for k in places] for kind, of_kind in every.items()}
    of_group = [pairs[k] for k in places]
    rows += _word_rows(measures.recognizer, found, prefix + speech.RECORDING, of_group)
    rows += speech.opinion_rows(found)
  rows += speech.given_voice_rows(measures, described, voices, [j for _, j in chosen], sample_rate)
  details: dict[str, object] = {"clips": [target.id for target in targets]}
  if measures.recognizer is not None:
    details["texts"] = [target.text for target in targets]
    details["recognized"] = {
      kind: [one.words for one in of_kind] for kind, of_kind in every.items()
    }
  return SuiteResult(rows + measures.missing_rows(), details)


def _word_rows(
  recognizer: recognition.Recognizer | None,
  described: Mapping[str, Sequence[speech.Description]],
  recording: str,
  pairs: Sequence[SpeechPair],
) -> list[Row]:
  """Returns the errors against recognized targets and their texts, and the share of right values.

  Args:
    recognizer: the recognizer of the words in the descriptions; None if they have no words.
    described: descriptions of the sounds of all pairs, by kind of sound.
    recording: kind of the target recordings, whose recognized words are one of the references.
    pairs: the pairs. Rows about texts or values are omitted if no pair has one.
  """
  if recognizer is None:
    return []
  words = [one.words for one in described[recording]]
  others = {kind: found for kind, found in described.items() if kind != recording}
  rows = speech.word_rows(speech.WORD_CHANGES, recognizer, others, words)
  texts = [pair.target.text for pair in pairs]
  if any(texts):
    rows += text_error_rows(recognizer, described, texts)
  for kind, found in described.items():
    right = [
      float(_states(str(one.words), pair.value))
      for pair, one in zip(pairs, found, strict=True)
      if pair.value is not None
    ]
    if right:
      rows.append(row_of(VALUE_RIGHT, right, kind, note=recognizer.name))
  return rows


def _states(transcript: str, value: str) -> bool:
  """Returns whether a Spanish transcript states the value with this id."""
  found = spoken_values.of_spanish(transcript)
  return found is not None and found.id == value
