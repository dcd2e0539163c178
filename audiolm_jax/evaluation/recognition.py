"""What is said, as a speech recognizer hears it, and how far that is from what was written."""

import logging
import os
import re
from importlib import metadata
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation.tokens import edit_distance
from audiolm_jax.io import audio, hub

WHISPER_MISSING = "Whisper needs an extra: pip install -r requirements/evaluation.txt"

_RATE = 16_000


@runtime_checkable
class Recognizer(Protocol):
  """Turns speech into text.

  Attributes:
    name: with its version, for reports: figures of two recognizers do not compare.
  """

  name: str

  def transcribe(self, waveform: Float[np.ndarray, " samples"], sample_rate: int) -> str:
    """The words of a clip."""
    ...

  def normalise(self, text: str) -> str:
    """The text with one spelling of numbers and the like, for words to be compared in."""
    ...


class PocketSphinx:
  """An offline recognizer of US English; its model comes with the package.

  Raises:
    UserError: it is not installed.
  """

  def __init__(self):
    try:
      from pocketsphinx import Decoder  # pyright: ignore[reportMissingImports]
    except ImportError as error:
      raise UserError("pocketsphinx is not installed; pip install pocketsphinx") from error
    self.name = f"pocketsphinx {metadata.version('pocketsphinx')}, its US English model"
    self._decoder = Decoder(samprate=_RATE, loglevel="FATAL")

  def transcribe(self, waveform: Float[np.ndarray, " samples"], sample_rate: int) -> str:
    """The words of a clip."""
    heard = np.clip(audio.resample(waveform, sample_rate, _RATE), -1.0, 1.0)
    self._decoder.start_utt()
    self._decoder.process_raw((heard * 32767).astype("<i2").tobytes(), full_utt=True)
    self._decoder.end_utt()
    best = self._decoder.hyp()
    return best.hypstr if best else ""

  def normalise(self, text: str) -> str:
    """The text as it is: the recognizer spells all words out."""
    return text


class Whisper:
  """A Whisper model, run by faster-whisper.

  It runs with 8-bit weights on the CPU, so that figures do not depend on the machine.

  Args:
    model: folder in the format of CTranslate2, size such as `base.en`, or name on the Hugging Face
      hub.
    language: code of the language that is spoken, such as `en`.
  Raises:
    UserError: a package is not installed, or the model cannot be loaded.
  """

  def __init__(self, model: str, language: str = "en"):
    try:
      import faster_whisper  # pyright: ignore[reportMissingImports]
      from whisper_normalizer import basic, english  # pyright: ignore[reportMissingImports]
    except ImportError as error:
      raise UserError(f"--asr_model {model}: {WHISPER_MISSING}") from error
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)  # it reports every clip
    try:
      self._model: Any = faster_whisper.WhisperModel(
        model, device="cpu", compute_type="int8", cpu_threads=min(4, os.cpu_count() or 1)
      )
    except Exception as error:  # of the hub, of the way there, or of CTranslate2
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
    """The words of a clip, by beam search without sampling."""
    segments, _ = self._model.transcribe(
      audio.resample(waveform, sample_rate, _RATE).astype(np.float32),
      language=self._language,
      temperature=0.0,
      condition_on_previous_text=False,
    )
    return "".join(segment.text for segment in segments).strip()

  def normalise(self, text: str) -> str:
    """Spells numbers, abbreviations and British words in one way."""
    return self._normalizer(text)


class ErrorCount(NamedTuple):
  """Insertions, deletions and substitutions, and what they are counted against."""

  errors: int
  length: int


def normalised_words(text: str) -> list[str]:
  """In lower case, without punctuation; apostrophes stay, hyphens part words."""
  return re.findall(
    r"[^\W_]+(?:'[^\W_]+)*", text.casefold().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
  )


def word_errors(reference: str, heard: str) -> ErrorCount:
  """Of the words, both normalised."""
  return _errors(normalised_words(reference), normalised_words(heard))


def character_errors(reference: str, heard: str) -> ErrorCount:
  """Of the characters, one space between words, both normalised."""
  return _errors(*(list(" ".join(normalised_words(text))) for text in (reference, heard)))


def _errors(reference: list[str], heard: list[str]) -> ErrorCount:
  numbers = {unit: number for number, unit in enumerate({*reference, *heard})}
  one, other = (np.array([numbers[u] for u in units], int) for units in (reference, heard))
  return ErrorCount(edit_distance(one, other), len(reference))
