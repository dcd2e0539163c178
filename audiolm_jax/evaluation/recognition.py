"""Speech recognizers, and word and character errors of their transcripts."""

import logging
import math
import os
import re
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation.tokens import edit_distance
from audiolm_jax.io import audio, hub

WHISPER_MISSING = "Whisper needs an extra: pip install -r requirements/evaluation.txt"

_RATE = 16_000


class Phrase(NamedTuple):
  """A part of a transcript.

  Attributes:
    text: words of the phrase, including leading and trailing spaces.
    probability: geometric mean of token probabilities over the tokens that were decoded together.
      These tokens can include tokens of neighbouring phrases.
  """

  text: str
  probability: float


@runtime_checkable
class Recognizer(Protocol):
  """Transcribes speech.

  Attributes:
    name: name and version for reports; error rates of different recognizers are not comparable.
  """

  name: str

  def transcribe(self, waveform: Float[np.ndarray, " samples"], sample_rate: int) -> str:
    """Returns the words of a clip."""
    ...

  def normalise(self, text: str) -> str:
    """Returns the text with standard spellings of numbers and abbreviations, to compare words."""
    ...


@runtime_checkable
class PhraseRecognizer(Recognizer, Protocol):
  """A recognizer that also returns the probabilities of phrases."""

  def phrases(self, waveform: Float[np.ndarray, " samples"], sample_rate: int) -> list[Phrase]:
    """Returns the phrases of a clip; the transcript is the concatenation of their texts."""
    ...


class PocketSphinx:
  """An offline recognizer of US English, whose model is part of the package.

  Raises:
    UserError: the package pocketsphinx is not installed.
  """

  def __init__(self):
    try:
      from pocketsphinx import Decoder  # pyright: ignore[reportMissingImports]: an optional package
    except ImportError as error:
      raise UserError("pocketsphinx is not installed; pip install pocketsphinx") from error
    self.name = f"pocketsphinx {metadata.version('pocketsphinx')}, its US English model"
    self._decoder = Decoder(samprate=_RATE, loglevel="FATAL")

  def transcribe(self, waveform: Float[np.ndarray, " samples"], sample_rate: int) -> str:
    """Returns the words of a clip."""
    clipped = np.clip(audio.resample(waveform, sample_rate, _RATE), -1.0, 1.0)
    self._decoder.start_utt()
    self._decoder.process_raw((clipped * 32767).astype("<i2").tobytes(), full_utt=True)
    self._decoder.end_utt()
    best = self._decoder.hyp()
    return best.hypstr if best else ""

  def normalise(self, text: str) -> str:
    """Returns the text unchanged, because the recognizer writes numbers as words."""
    return text


class Whisper:
  """A Whisper model, which faster-whisper runs with 8-bit weights.

  The model runs on the CPU, so that the results do not depend on the accelerator.

  Args:
    model: folder in the format of CTranslate2, size such as `base.en`, or name on the Hugging Face
      hub.
    language: code of the language of the speech, such as `en`.

  Raises:
    UserError: a package is not installed, or the model cannot be loaded.
  """

  def __init__(self, model: str, language: str = "en"):
    try:
      import faster_whisper  # pyright: ignore[reportMissingImports]: an optional package
      from whisper_normalizer import basic, english  # pyright: ignore[reportMissingImports]: an optional package
    except ImportError as error:
      raise UserError(f"--asr_model {model}: {WHISPER_MISSING}") from error
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)  # the package logs every clip
    try:
      self._model: Any = faster_whisper.WhisperModel(
        model, device="cpu", compute_type="int8", cpu_threads=min(4, os.cpu_count() or 1)
      )
    except Exception as error:  # raised by the hub, the network or CTranslate2
      raise UserError(
        f"--asr_model {model} is no Whisper model that can be loaded ({hub.reason(error)}); give a "
        "folder in the format of CTranslate2, a size such as base.en, or a name on the hub"
      ) from error
    self._language = language
    normalizers = {"en": english.EnglishTextNormalizer}
    self._normalizer: Any = normalizers.get(language, basic.BasicTextNormalizer)()
    base = os.path.basename(os.path.normpath(model))
    self.name = f"Whisper {base}, faster-whisper {faster_whisper.__version__}"

  def transcribe(self, waveform: Float[np.ndarray, " samples"], sample_rate: int) -> str:
    """Returns the words of a clip by beam search without sampling."""
    return text_of(self.phrases(waveform, sample_rate))

  def phrases(self, waveform: Float[np.ndarray, " samples"], sample_rate: int) -> list[Phrase]:
    """Returns the phrases of a clip by beam search without sampling."""
    segments, _ = self._model.transcribe(
      audio.resample(waveform, sample_rate, _RATE).astype(np.float32),
      language=self._language,
      temperature=0.0,
      condition_on_previous_text=False,
    )
    return [Phrase(segment.text, math.exp(segment.avg_logprob)) for segment in segments]

  def normalise(self, text: str) -> str:
    """Returns the text as Whisper's normalizers write it.

    English gets standard spellings of numbers, abbreviations and British words. Other languages get
    lower case without punctuation.
    """
    return self._normalizer(text)


class ErrorCount(NamedTuple):
  """Errors of one clip.

  Attributes:
    errors: number of insertions, deletions and substitutions.
    length: number of words or characters of the reference.
  """

  errors: int
  length: int


def text_of(phrases: Sequence[Phrase]) -> str:
  """Returns the transcript that consists of these phrases."""
  return "".join(phrase.text for phrase in phrases).strip()


def normalised_words(text: str) -> list[str]:
  """Returns the lower-case words of a text; a word has letters, digits and inner apostrophes."""
  return re.findall(
    r"[^\W_]+(?:'[^\W_]+)*", text.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
  )


def word_errors(reference: str, recognized: str) -> ErrorCount:
  """Returns the number of word errors of a transcript and the number of words of the reference."""
  return _errors(normalised_words(reference), normalised_words(recognized))


def character_errors(reference: str, recognized: str) -> ErrorCount:
  """Returns the number of character errors and the number of characters of the reference.

  Both texts are normalised to words with one space between them.
  """
  return _errors(*(list(" ".join(normalised_words(text))) for text in (reference, recognized)))


def unaligned_end(reference: str, recognized: str) -> tuple[int, int]:
  """Returns the numbers of words after the last aligned pair, in the reference and the transcript.

  The alignment has the minimum number of errors. Among several such alignments, the alignment with
  the fewest words after the last pair is used. The two words of a pair can differ.
  """
  a, b = normalised_words(reference), normalised_words(recognized)
  # For each number of words of the two texts: errors, and numbers of words after the last pair.
  above = [(j, (0, j)) for j in range(len(b) + 1)]
  for i, word in enumerate(a, start=1):
    row = [(i, (i, 0))]
    for j, other in enumerate(b, start=1):
      paired = (above[j - 1][0] + (word != other), (0, 0))
      errors, (missing, added) = above[j]
      deleted = (errors + 1, (missing + 1, added))
      errors, (missing, added) = row[-1]
      inserted = (errors + 1, (missing, added + 1))
      row.append(min(paired, deleted, inserted, key=lambda found: (found[0], sum(found[1]))))
    above = row
  return above[-1][1]


def _errors(reference: list[str], recognized: list[str]) -> ErrorCount:
  numbers = {unit: number for number, unit in enumerate({*reference, *recognized})}
  one, other = (np.array([numbers[u] for u in units], int) for units in (reference, recognized))
  return ErrorCount(edit_distance(one, other), len(reference))
