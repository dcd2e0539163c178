"""What is said, as a speech recognizer hears it, and how far that is from what was written."""

import re
from importlib import metadata
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float

from audiolm_jax import audio
from audiolm_jax.errors import UserError
from audiolm_jax.evaluation.tokens import edit_distance

_SPHINX_RATE = 16_000


class Recognizer(Protocol):
  """Turns speech into text.

  Attributes:
    name: with its version, for reports: figures of two recognizers do not compare.
  """

  name: str

  def transcribe(self, waveform: Float[np.ndarray, " samples"], sample_rate: int) -> str:
    """The words of a clip."""
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
    self._decoder = Decoder(samprate=_SPHINX_RATE, loglevel="FATAL")

  def transcribe(self, waveform: Float[np.ndarray, " samples"], sample_rate: int) -> str:
    """The words of a clip."""
    heard = np.clip(audio.resample(waveform, sample_rate, _SPHINX_RATE), -1.0, 1.0)
    self._decoder.start_utt()
    self._decoder.process_raw((heard * 32767).astype("<i2").tobytes(), full_utt=True)
    self._decoder.end_utt()
    best = self._decoder.hyp()
    return best.hypstr if best else ""


class TransformersRecognizer:
  """Any speech recognition model of `transformers`.

  Args:
    model: folder, or name on the Hugging Face hub.
  Raises:
    UserError: the package or the model is not there.
  """

  def __init__(self, model: str):
    try:
      import transformers  # pyright: ignore[reportMissingImports]
    except ImportError as error:
      raise UserError(
        f"--asr_model {model} needs transformers and torch; pip install transformers torch"
      ) from error
    try:
      self._pipeline: Any = transformers.pipeline("automatic-speech-recognition", model=model)
    except (OSError, ValueError) as error:
      reason = str(error).splitlines()[0]
      raise UserError(f"--asr_model {model} is no speech recognition model: {reason}") from error
    self.name = f"{model}, transformers {transformers.__version__}"

  def transcribe(self, waveform: Float[np.ndarray, " samples"], sample_rate: int) -> str:
    """The words of a clip."""
    return self._pipeline({"raw": waveform, "sampling_rate": sample_rate})["text"]


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
