"""Measures text to speech in a given voice: words, end of the speech, quality and voice.

Each text of a recording is spoken in the voice of another speaker. If there are clips without
texts, the voices come from these clips. For comparison, the recording of the text is resynthesized
in the same voice from its semantic tokens. Only the acoustic stages cause the errors of the
resynthesis.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from audiolm_jax.bundles import Bundle
from audiolm_jax.data.manifest import clips_of_split, list_clips
from audiolm_jax.evaluation import recognition, speech
from audiolm_jax.evaluation.clips import EvalClip, valid_clips
from audiolm_jax.evaluation.metric import Metric
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import Row, SuiteResult, row_of, skipped
from audiolm_jax.evaluation.suites.resynthesis import CHARACTER_ERRORS
from audiolm_jax.evaluation.suites.voice import Resynthesize, resynthesizer
from audiolm_jax.evaluation.transcripts import texts_of

SPOKEN = "text to speech"
RESYNTHESIZED = "resynthesis"
ENDS = Metric("speech_ends_with_text", "the speech ends where the text ends")
# Number of words that may be missing or added at the end: a recognizer can split or join words.
_WORDS_AT_END = 1


class Speakers(NamedTuple):
  """Two functions that generate speech; the last two arguments of both are a voice and a seed.

  Attributes:
    speak: function that receives a text and returns its speech.
    resynthesize: function that receives a recording and returns its resynthesis.
  """

  speak: Callable[[str, Float[np.ndarray, " voice"], int], Float[np.ndarray, " samples"]]
  resynthesize: Resynthesize


def run(bundle: Bundle, options: Options) -> SuiteResult:
  """Speaks texts of the split `valid` in voices from the first `prompt_seconds` of other clips."""
  measures = speech.find_measures(options)
  if not measures:
    return skipped("it needs --asr_model, or the packages of requirements/evaluation.txt")
  rate = bundle.sample_rate
  listed = clips_of_split(list_clips(options.data), "valid")
  texts = texts_of(listed, options.data)
  if not texts:
    return skipped(f"it needs texts: no valid clip of {options.data} has one")
  clips = valid_clips(options, texts, texts, rate, 0.1)
  without = {clip.id for clip in listed} - set(texts)
  voices = valid_clips(options, without or texts, texts, rate, options.prompt_seconds)

  def speak(text: str, voice: np.ndarray, seed: int) -> np.ndarray:
    made = bundle.speak(text, voice=voice, sample_rate=rate, prompt_seconds=None, seed=seed)
    return np.asarray(made.waveform)

  cut = round(options.prompt_seconds * rate)
  both = Speakers(speak, resynthesizer(bundle))
  return speaking_suite(both, clips, voices, cut, rate, measures, options.seed)


def speaking_suite(
  speakers: Speakers,
  clips: Sequence[EvalClip],
  voices: Sequence[EvalClip],
  cut: int,
  sample_rate: int,
  measures: speech.SpeechMeasures,
  seed: int = 0,
) -> SuiteResult:
  """Measures the words, the end, the quality and the voice of spoken texts.

  Args:
    speakers: functions that speak a text and resynthesize a recording.
    clips: clips with texts.
    voices: clips that provide the voices. A text is spoken in a voice by another speaker than its
      recording; a text without such a voice is ignored.
    cut: length of a voice in samples; the voice is the beginning of a clip in `voices`.
    sample_rate: sample rate of all waveforms in Hz.
    measures: the available networks.
    seed: seed of sampling.
  """
  pairs = list(pairs_with_voices(clips, voices))
  if not pairs:
    return skipped("it needs a speaker whose voice is not that of the texts")
  made: dict[str, list[np.ndarray]] = {SPOKEN: [], RESYNTHESIZED: []}
  for i, j in pairs:
    voice = voices[j].waveform[:cut]
    made[SPOKEN].append(speakers.speak(str(clips[i].text), voice, seed + i))
    made[RESYNTHESIZED].append(speakers.resynthesize(clips[i].waveform, voice, seed + i))
  described = measures.describe_all(made, sample_rate)
  recordings = [measures.describe(clips[i].waveform, sample_rate) for i, _ in pairs]
  every = {**described, speech.RECORDING: recordings}
  rows: list[Row] = []
  details: dict[str, object] = {"clips": [clips[i].id for i, _ in pairs]}
  if measures.recognizer is not None:
    recognizer, texts = measures.recognizer, [clips[i].text for i, _ in pairs]
    rows += text_error_rows(recognizer, every, texts)
    for kind, found in every.items():
      ends = [
        _ends_with(recognizer.normalise(str(text)), recognizer.normalise(str(one.words)))
        for text, one in zip(texts, found, strict=True)
      ]
      rows.append(row_of(ENDS, ends, kind, note=recognizer.name))
    details |= {
      "texts": texts,
      "recognized": {kind: [one.words for one in found] for kind, found in every.items()},
    }
  rows += speech.opinion_rows(every)
  rows += speech.given_voice_rows(measures, described, voices, [j for _, j in pairs], sample_rate)
  return SuiteResult(rows + measures.missing_rows(), details)


def pairs_with_voices(
  clips: Sequence[EvalClip], voices: Sequence[EvalClip]
) -> Iterator[tuple[int, int]]:
  """Yields pairs of indices: a clip, and a voice by another speaker; the voices are used in turn.

  A clip without the name of its speaker counts as one by a speaker of its own.
  """
  names = [voice.speaker or voice.id for voice in voices]
  following = 0
  for index, clip in enumerate(clips):
    for later in range(len(voices)):
      chosen = (following + later) % len(voices)
      if names[chosen] != (clip.speaker or clip.id):
        yield index, chosen
        following = chosen + 1
        break


def text_error_rows(
  recognizer: recognition.Recognizer,
  described: Mapping[str, Sequence[speech.Description]],
  texts: Sequence[str | None],
) -> list[Row]:
  """Returns character and word error rates against texts; see `speech.word_rows`."""
  return [
    *speech.word_rows(CHARACTER_ERRORS, recognizer, described, texts, recognition.character_errors),
    *speech.word_rows(speech.WORD_ERRORS, recognizer, described, texts),
  ]


def _ends_with(text: str, recognized: str) -> float:
  """Returns 1 if at most one word at the end of either text is not aligned, else 0."""
  missing, added = recognition.unaligned_end(text, recognized)
  return float(max(missing, added) <= _WORDS_AT_END)
