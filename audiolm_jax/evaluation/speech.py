"""Measures of speech by pretrained networks: words, quality and voice."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation.clips import EvalClip
from audiolm_jax.evaluation.ge2e import load_ge2e
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.opinion import Dnsmos, Opinion, OpinionModel
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.recognition import (
  ErrorCount,
  Phrase,
  PhraseRecognizer,
  Recognizer,
  Whisper,
  text_of,
  word_errors,
)
from audiolm_jax.evaluation.report import Row, row_of
from audiolm_jax.evaluation.speaker import SpeakerEncoder
from audiolm_jax.evaluation.statistics import undefined

RECORDING = "recording"  # kind of the unprocessed clips, in the rows

WORD_ERRORS = Metric("word_error_rate", "word error rate against the text", Better.LOWER)
WORD_CHANGES = Metric(
  "word_change_rate", "word error rate against the recognized recording", Better.LOWER
)
OPINIONS = {name: Metric(f"dnsmos_{name}", f"DNSMOS {name}") for name in Opinion._fields}
VOICE_COSINE = Metric("ge2e_recording_cosine", "voice cosine with the recording by GE2E")
NEAREST_SPEAKER = Metric(
  "ge2e_nearest_speaker", "speaker of the nearest recording by GE2E is right"
)
# Metrics of the rows that report a missing network and have no value.
BY_WHISPER = Metric("whisper", "word error rate by Whisper", Better.LOWER)
BY_DNSMOS = Metric("dnsmos", "DNSMOS")
BY_GE2E = Metric("ge2e", "voice by GE2E")


@dataclasses.dataclass(frozen=True)
class Description:
  """The outputs of the networks for one clip; the output of a missing network is None.

  Attributes:
    words: recognized words.
    opinion: predicted quality.
    voice: speaker embedding, a unit vector.
    phrases: parts of the recognized words, from a recognizer that returns their probabilities.
  """

  words: str | None = None
  opinion: Opinion | None = None
  voice: Float[np.ndarray, " dim"] | None = None
  phrases: Sequence[Phrase] | None = None


@dataclasses.dataclass(frozen=True)
class SpeechMeasures:
  """The available networks that measure speech.

  Attributes:
    recognizer: speech recognizer; None if not available.
    opinion: predictor of quality; None if not available.
    speaker: speaker encoder; None if not available.
    missing: for each missing network, the reason and how to install the network.
  """

  recognizer: Recognizer | None = None
  opinion: OpinionModel | None = None
  speaker: SpeakerEncoder | None = None
  missing: Mapping[Metric, str] = dataclasses.field(default_factory=dict)

  def __bool__(self) -> bool:
    return any(part is not None for part in (self.recognizer, self.opinion, self.speaker))

  def describe(self, waveform: Float[np.ndarray, " samples"], sample_rate: int) -> Description:
    """Returns the outputs of the networks for a clip."""
    given = (waveform, sample_rate)
    words = phrases = None
    if isinstance(self.recognizer, PhraseRecognizer):
      phrases = self.recognizer.phrases(*given)
      words = text_of(phrases)
    elif self.recognizer is not None:
      words = self.recognizer.transcribe(*given)
    return Description(
      words,
      None if self.opinion is None else self.opinion.rate(*given),
      None if self.speaker is None else self.speaker.embed(*given),
      phrases,
    )

  def describe_all(
    self, sounds: Mapping[str, Sequence[Float[np.ndarray, "_"]]], sample_rate: int
  ) -> dict[str, list[Description]]:
    """Returns the outputs of the networks for each clip, by kind of sound."""
    return {
      kind: [self.describe(waveform, sample_rate) for waveform in of_kind]
      for kind, of_kind in sounds.items()
    }

  def missing_rows(self) -> list[Row]:
    """Returns a row without a value for each missing network; the note of the row is the reason."""
    return [Row(metric, undefined(), note=reason) for metric, reason in self.missing.items()]


NO_MEASURES = SpeechMeasures()


def find_measures(options: Options) -> SpeechMeasures:
  """Returns the networks whose packages are installed, and Whisper if the options name a model.

  The result is empty for a domain other than speech.

  Raises:
    UserError: the packages of Whisper are not installed, or the Whisper model cannot be loaded.
  """
  if options.domain is not Domain.SPEECH:
    return SpeechMeasures()
  found: dict[str, Any] = {}
  missing: dict[Metric, str] = {}
  if options.asr_model:
    found["recognizer"] = Whisper(options.asr_model, options.asr_language)
  else:
    missing[BY_WHISPER] = "skipped: it needs a Whisper model (--asr_model)"
  for name, metric, load in (("opinion", BY_DNSMOS, Dnsmos), ("speaker", BY_GE2E, load_ge2e)):
    try:
      found[name] = load()
    except UserError as error:
      missing[metric] = f"skipped: {error}"
  return SpeechMeasures(**found, missing=missing)


def speech_rows(
  described: Mapping[str, Sequence[Description]],
  recordings: Sequence[Description],
  clips: Sequence[EvalClip],
  recognizer: Recognizer | None,
) -> list[Row]:
  """Returns all rows of processed recordings: words, quality and voices.

  Args:
    described: descriptions of the processed clips, by the name of the processing.
    recordings: descriptions of the unprocessed clips.
    clips: the clips; their texts are the references of the word error rates.
    recognizer: the recognizer of the words in the descriptions; None if they have no words.
  """
  every = {**described, RECORDING: recordings}
  rows = []
  if recognizer is not None:
    recognized = [str(found.words) for found in recordings]
    rows += word_rows(WORD_CHANGES, recognizer, described, recognized)
    if any(clip.text for clip in clips):
      rows += word_rows(WORD_ERRORS, recognizer, every, [clip.text for clip in clips])
  speakers = [clip.speaker or clip.id for clip in clips]
  return [*rows, *opinion_rows(every), *speaker_rows(described, recordings, speakers)]


def word_rows(
  metric: Metric,
  recognizer: Recognizer,
  described: Mapping[str, Sequence[Description]],
  references: Sequence[str | None],
  count: Callable[[str, str], ErrorCount] = word_errors,
) -> list[Row]:
  """Returns an error rate for each kind of sound; clips without a reference are ignored.

  Args:
    metric: metric of the error rate.
    recognizer: recognizer that normalises both texts.
    described: descriptions of the clips, by kind of sound.
    references: text of each clip; None for a clip without a text.
    count: function that counts the errors of one clip.
  """
  rows = []
  for kind, found in described.items():
    counts = [
      (0, 0)
      if reference is None
      else count(recognizer.normalise(reference), recognizer.normalise(str(one.words)))
      for reference, one in zip(references, found, strict=True)
    ]
    rows.append(row_of(metric, np.array(counts, int).reshape(-1, 2), kind, note=recognizer.name))
  return rows


def opinion_rows(described: Mapping[str, Sequence[Description]]) -> list[Row]:
  """Returns mean opinion scores for each kind of sound whose clips all have scores."""
  rows = []
  for name, metric in OPINIONS.items():
    for kind, found in described.items():
      scores = [getattr(one.opinion, name) for one in found if one.opinion is not None]
      if len(scores) == len(found):
        rows.append(row_of(metric, scores, kind))
  return rows


def speaker_rows(
  described: Mapping[str, Sequence[Description]],
  recordings: Sequence[Description],
  speakers: Sequence[str],
  better: Better = Better.HIGHER,
) -> list[Row]:
  """Compares the voices of processed clips with the voices of the recordings.

  Args:
    described: descriptions of the processed clips, by the name of the processing.
    recordings: descriptions of the unprocessed clips, in the same order.
    speakers: speaker of each clip.
    better: direction in which the values improve; `LOWER` if processing should remove the voice.

  Returns:
    For each kind of sound, a row of the cosine between clip and recording. With several speakers, a
    second row has the share of clips whose nearest recording is by the clip's speaker. The list is
    empty if there are no recordings, or if a recording has no speaker embedding.
  """
  known = [one.voice for one in recordings if one.voice is not None]
  if not known or len(known) < len(recordings):
    return []
  table, names = np.stack(known), np.array(speakers)
  count = len(set(speakers))
  cosine, nearest = (
    dataclasses.replace(metric, better=better) for metric in (VOICE_COSINE, NEAREST_SPEAKER)
  )
  rows = []
  for kind, found in described.items():
    cosines = np.stack([one.voice for one in found if one.voice is not None]) @ table.T
    rows.append(row_of(cosine, np.diag(cosines), kind))
    if count > 1:
      hits = names[cosines.argmax(axis=1)] == names
      rows.append(row_of(nearest, hits.astype(float), f"among {count}, {kind}"))
  return rows


def given_voice_rows(
  measures: SpeechMeasures,
  described: Mapping[str, Sequence[Description]],
  voices: Sequence[EvalClip],
  given: Sequence[int],
  sample_rate: int,
) -> list[Row]:
  """Compares the voices of generated speech with the voices that were given; see `speaker_rows`.

  Args:
    measures: the available networks.
    described: descriptions of the generated speech, by kind of sound.
    voices: clips that provide the voices.
    given: for each clip of a kind, the index of its voice in `voices`.
    sample_rate: sample rate of the voices in Hz.
  """
  by_voice = dataclasses.replace(measures, recognizer=None, opinion=None)
  known = {j: by_voice.describe(voices[j].waveform, sample_rate) for j in set(given)}
  names = [voices[j].speaker or voices[j].id for j in given]
  return speaker_rows(described, [known[j] for j in given], names)
