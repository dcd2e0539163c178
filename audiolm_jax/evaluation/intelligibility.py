"""Measures whether sampled speech has words, with a dictionary and a second recognizer.

A recognizer returns words for any sound, so the number of words alone means little. For
speech without real words, the recognizer returns words with low probabilities. Some of these words
are not in a dictionary, and a second recognizer returns other words.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation import recognition
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.recognition import Phrase, Recognizer
from audiolm_jax.evaluation.report import Row, row_of
from audiolm_jax.evaluation.speech import Description
from audiolm_jax.evaluation.statistics import undefined

CLEAR_WORDS = Metric(
  "clear_words_per_second", "dictionary words a second, times the recognizer's probability"
)
DISAGREEMENT = Metric(
  "recognizer_disagreement", "words on which two recognizers differ", Better.LOWER
)


@dataclasses.dataclass(frozen=True)
class WordChecks:
  """A dictionary and a second recognizer, which check the words of sampled speech.

  Attributes:
    dictionary: the lower-case words of a language; None if there is no dictionary.
    second: the second recognizer; None if there is only one recognizer.
    missing: for each metric that cannot be computed, the reason.
  """

  dictionary: Collection[str] | None = None
  second: Recognizer | None = None
  missing: Mapping[Metric, str] = dataclasses.field(default_factory=dict)


NO_CHECKS = WordChecks()


def find_checks(options: Options) -> WordChecks:
  """Returns the dictionary and the second recognizer for the given options, if available.

  Raises:
    UserError: the second recognizer cannot be loaded.
  """
  missing: dict[Metric, str] = {}
  dictionary = second = None
  try:
    dictionary = load_dictionary(options.asr_language)
  except UserError as error:
    missing[CLEAR_WORDS] = f"skipped: {error}"
  if options.second_asr_model:
    second = recognition.Whisper(options.second_asr_model, options.asr_language)
  else:
    missing[DISAGREEMENT] = "skipped: it needs another Whisper model (--second_asr_model)"
  return WordChecks(dictionary, second, missing)


def load_dictionary(language: str) -> Collection[str]:
  """Returns the lower-case words of a language.

  Args:
    language: code of the language, such as `en`.

  Raises:
    UserError: the package pyspellchecker is not installed, or has no dictionary of the
      language.
  """
  try:
    from spellchecker import SpellChecker  # pyright: ignore[reportMissingImports]: an optional package
  except ImportError as error:
    raise UserError(
      "a dictionary needs an extra: pip install -r requirements/evaluation.txt"
    ) from error
  try:
    return frozenset(SpellChecker(language=language).word_frequency.words())
  except ValueError as error:
    raise UserError(f"pyspellchecker has no dictionary of the language {language!r}") from error


def clear_words(
  phrases: Sequence[Phrase], recognizer: Recognizer, dictionary: Collection[str]
) -> float:
  """Returns the number of dictionary words, each weighted by the probability of its phrase."""
  return sum(
    phrase.probability * sum(word in dictionary for word in _words(recognizer, phrase.text))
    for phrase in phrases
  )


def check_rows(
  checks: WordChecks,
  recognizer: Recognizer,
  sounds: Mapping[str, Sequence[Float[np.ndarray, "_"]]],
  described: Mapping[str, Sequence[Description]],
  sample_rate: int,
) -> list[Row]:
  """Returns rows of `CLEAR_WORDS` and `DISAGREEMENT` for each kind of sound.

  Each metric of `checks.missing` has one row without a value.

  Args:
    checks: the dictionary and the second recognizer.
    recognizer: the first recognizer, whose words are in the descriptions. `CLEAR_WORDS` needs a
      `PhraseRecognizer`, and has no rows otherwise.
    sounds: the clips, by kind of sound.
    described: descriptions of the clips, by kind of sound.
    sample_rate: sample rate of the clips in Hz.
  """
  rows: list[Row] = []
  for kind, clips in sounds.items():
    if checks.dictionary is not None:
      paces = [
        clear_words(one.phrases, recognizer, checks.dictionary) * sample_rate / len(clip)
        for clip, one in zip(clips, described[kind], strict=True)
        if one.phrases is not None
      ]
      rows += [row_of(CLEAR_WORDS, paces, kind, note=recognizer.name)] if paces else []
    if checks.second is not None:
      counts = [
        recognition.word_errors(
          recognizer.normalise(str(one.words)),
          recognizer.normalise(checks.second.transcribe(clip, sample_rate)),
        )
        for clip, one in zip(clips, described[kind], strict=True)
      ]
      note = f"{recognizer.name}; {checks.second.name}"
      rows.append(row_of(DISAGREEMENT, np.array(counts, int).reshape(-1, 2), kind, note=note))
  return rows + [Row(metric, undefined(), note=why) for metric, why in checks.missing.items()]


def _words(recognizer: Recognizer, text: str) -> list[str]:
  return recognition.normalised_words(recognizer.normalise(text))
