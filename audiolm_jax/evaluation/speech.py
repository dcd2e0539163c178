"""What other networks find in speech: its words, its quality, and whose voice it is."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation.clips import EvalClip
from audiolm_jax.evaluation.ge2e import Ge2e, load_ge2e
from audiolm_jax.evaluation.opinion import Dnsmos, Opinion, OpinionModel
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.recognition import ErrorCount, Recognizer, Whisper, word_errors
from audiolm_jax.evaluation.report import Better, ClipFigure, Row
from audiolm_jax.evaluation.speaker import SpeakerEncoder
from audiolm_jax.evaluation.statistics import mean_estimate

RECORDING = "recording"  # label of the clips as they are


@dataclasses.dataclass(frozen=True)
class Description:
  """What is found in one clip, None for what is not looked for.

  Attributes:
    words: as they are recognized.
    opinion: of its quality.
    voice: a unit vector.
  """

  words: str | None = None
  opinion: Opinion | None = None
  voice: Float[np.ndarray, " dim"] | None = None


@dataclasses.dataclass(frozen=True)
class SpeechMeasures:
  """The networks that are there.

  Attributes:
    recognizer, opinion, speaker: None where it is not there.
    missing: by name of a measure, why it is not there.
  """

  recognizer: Recognizer | None = None
  opinion: OpinionModel | None = None
  speaker: SpeakerEncoder | None = None
  missing: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __bool__(self) -> bool:
    return any(part is not None for part in (self.recognizer, self.opinion, self.speaker))

  def describe(self, waveform: Float[np.ndarray, " samples"], sample_rate: int) -> Description:
    """What they find in a clip."""
    given = (waveform, sample_rate)
    return Description(
      None if self.recognizer is None else self.recognizer.transcribe(*given),
      None if self.opinion is None else self.opinion.rate(*given),
      None if self.speaker is None else self.speaker.embed(*given),
    )

  def missing_rows(self, suite: str) -> list[Row]:
    """A row without a value for each measure that is not there; its note says what brings it."""
    return [Row(suite, name, mean_estimate([]), note=why) for name, why in self.missing.items()]


NO_MEASURES = SpeechMeasures()


def find_measures(options: Options) -> SpeechMeasures:
  """The networks whose packages are installed, and the recognizer that is asked for.

  Raises:
    UserError: the recognizer that is asked for cannot be loaded.
  """
  if options.domain is not Domain.SPEECH:
    return SpeechMeasures()
  missing: dict[str, str] = {}
  recognizer: Recognizer | None = None
  opinion: OpinionModel | None = None
  speaker: Ge2e | None = None
  if options.asr_model:
    recognizer = Whisper(options.asr_model, options.asr_language)
  else:
    missing["word error rate by Whisper"] = "left out: no --asr_model is given, a Whisper model"
  try:
    opinion = Dnsmos()
  except UserError as error:
    missing["DNSMOS"] = f"left out: {error}"
  try:
    speaker = load_ge2e()
  except UserError as error:
    missing["voice by GE2E"] = f"left out: {error}"
  return SpeechMeasures(recognizer, opinion, speaker, missing)


def speech_figures(
  described: Mapping[str, Sequence[Description]],
  recordings: Sequence[Description],
  clips: Sequence[EvalClip],
  recognizer: Recognizer | None,
) -> list[ClipFigure]:
  """All figures of processed recordings.

  Args:
    described: by the name of what was done to them, what is found in the clips afterwards.
    recordings: what is found in the clips as they are.
    clips: the same clips; their texts are what word errors are counted against, and where a clip
      has none, what is recognized in the recording.
    recognizer: the one whose words are in the descriptions, if any.
  """
  beside = {**described, RECORDING: recordings}
  figures = []
  if recognizer is not None:
    read = [str(found.words) for found in recordings]
    own = "word error rate against the recording's reading"
    figures += word_figures(own, recognizer, described, read)
    if any(clip.text for clip in clips):
      texts = [clip.text for clip in clips]
      figures += word_figures("word error rate against the text", recognizer, beside, texts)
  speakers = [clip.speaker or clip.id for clip in clips]
  return [
    *figures,
    *opinion_figures(beside),
    *speaker_figures(described, recordings, speakers),
  ]


def word_figures(
  name: str,
  recognizer: Recognizer,
  described: Mapping[str, Sequence[Description]],
  references: Sequence[str | None],
  count: Callable[[str, str], ErrorCount] = word_errors,
) -> list[ClipFigure]:
  """Error rates; clips without a reference do not count.

  Args:
    name: of the figure.
    recognizer: normalises both sides.
    described: by name, what is found in the clips.
    references: what is said in each clip.
    count: errors of one clip.
  """
  figures = []
  for label, found in described.items():
    counts = [
      (0, 0)
      if reference is None
      else count(recognizer.normalise(reference), recognizer.normalise(str(one.words)))
      for reference, one in zip(references, found, strict=True)
    ]
    table = np.array(counts, int).reshape(-1, 2)
    figures.append(ClipFigure(f"{name}, {label}", table, Better.LOWER, recognizer.name))
  return figures


def opinion_figures(described: Mapping[str, Sequence[Description]]) -> list[ClipFigure]:
  """Mean opinion scores; none where there are no opinions."""
  figures = []
  for name in Opinion._fields:
    for label, found in described.items():
      scores = [getattr(one.opinion, name) for one in found if one.opinion is not None]
      if len(scores) == len(found):
        figures.append(ClipFigure(f"DNSMOS {name}, {label}", np.array(scores, float)))
  return figures


def speaker_figures(
  described: Mapping[str, Sequence[Description]],
  recordings: Sequence[Description],
  speakers: Sequence[str],
  better: Better = Better.HIGHER,
) -> list[ClipFigure]:
  """Cosine with the recording, and whether the nearest recording is by the clip's speaker.

  None where there are no voices; no nearest recording among those of one speaker.
  """
  known = [one.voice for one in recordings if one.voice is not None]
  if not known or len(known) < len(recordings):
    return []
  table, names = np.stack(known), np.array(speakers)
  count = len(set(speakers))
  figures = []
  for label, found in described.items():
    voices = np.stack([one.voice for one in found if one.voice is not None])
    cosines = voices @ table.T
    name = f"voice cosine with the recording by GE2E, {label}"
    figures.append(ClipFigure(name, np.diag(cosines), better))
    if count > 1:
      hits = names[cosines.argmax(axis=1)] == names
      name = f"speaker of the nearest recording is right, of {count}, by GE2E, {label}"
      figures.append(ClipFigure(name, hits.astype(float), better))
  return figures
