"""Distances of token sequences, and loops in them."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation.statistics import Estimate, bootstrap_estimate
from audiolm_jax.lm.tokens import collapse_repeats

Tokenize = Callable[[Float[np.ndarray, " samples"]], Int[np.ndarray, " steps"]]


def edit_distance(one: Int[np.ndarray, " m"], other: Int[np.ndarray, " n"]) -> int:
  """Returns the minimum number of insertions, deletions and substitutions from `one` to `other`.

  Source: Levenshtein's distance by dynamic programming, a row at a time.
  """
  one, other = np.asarray(one), np.asarray(other)
  steps = np.arange(len(other) + 1)
  row = steps.copy()
  for number, token in enumerate(one, 1):
    # First deletions and substitutions; then insertions along the row, by a cumulative minimum of
    # the row minus its index.
    ahead = np.concatenate([[number], np.minimum(row[1:] + 1, row[:-1] + (other != token))])
    row = np.minimum.accumulate(ahead - steps) + steps
  return int(row[-1])


def token_distance(one: Int[np.ndarray, " m"], other: Int[np.ndarray, " n"]) -> float:
  """Returns the edit distance of the collapsed sequences over the longer length, 0 to 1."""
  one, other = collapse_repeats(one), collapse_repeats(other)
  return edit_distance(one, other) / max(1, len(one), len(other))


@dataclasses.dataclass(frozen=True)
class Reading:
  """Tokens of one sentence by one voice.

  Attributes:
    sentence: the sentence, or its id.
    speaker: the voice.
    tokens: semantic tokens.
  """

  sentence: str
  speaker: str
  tokens: Int[np.ndarray, " steps"]


@dataclasses.dataclass(frozen=True)
class TripleReport:
  """Whether tokens depend on the sentence rather than on the speaker.

  Attributes:
    accuracy: share of triples (a reading, its sentence by another voice, another sentence by its
      voice) in which the first two are nearer; ties count half. Resampled over sentences.
    same_sentence: mean distance of one sentence by two voices.
    same_speaker: mean distance of two sentences by one voice.
    num_triples: number of triples.
    by_speaker: accuracy of the triples by the voice of their first reading.
  """

  accuracy: Estimate
  same_sentence: float
  same_speaker: float
  num_triples: int
  by_speaker: dict[str, float]


def triple_accuracy(readings: Sequence[Reading]) -> TripleReport:
  """Compares all triples of readings.

  Args:
    readings: each sentence at most once by each voice.

  Raises:
    DataError: there is no triple.
  """
  by_sentence = _pair_distances(readings, lambda r: r.sentence)
  by_speaker = _pair_distances(readings, lambda r: r.speaker)
  wins = {sentence: np.zeros(2) for sentence in sorted({r.sentence for r in readings})}
  voices = {speaker: np.zeros(2) for speaker in sorted({r.speaker for r in readings})}
  for index, reading in enumerate(readings):
    near, far = np.array(by_sentence[index]), np.array(by_speaker[index])
    if not len(near) or not len(far):
      continue
    better = (near[:, None] < far[None]) + 0.5 * (near[:, None] == far[None])
    wins[reading.sentence] += (better.sum(), better.size)
    voices[reading.speaker] += (better.sum(), better.size)
  table = np.array(list(wins.values()))
  if not len(table) or not table[:, 1].sum():
    raise DataError(
      "there is no triple; give one sentence by two voices, and two sentences by one voice"
    )
  table = table[table[:, 1] > 0]
  accuracy = bootstrap_estimate(
    lambda rows: table[rows, 0].sum() / table[rows, 1].sum(), len(table)
  )
  return TripleReport(
    accuracy=accuracy,
    same_sentence=float(np.mean([d for row in by_sentence for d in row])),
    same_speaker=float(np.mean([d for row in by_speaker for d in row])),
    num_triples=int(table[:, 1].sum()),
    by_speaker={name: float(won / of) for name, (won, of) in voices.items() if of},
  )


def _pair_distances(readings: Sequence[Reading], key) -> list[list[float]]:
  """Returns the distances of each reading to the others with the same key."""
  groups: dict[str, list[int]] = {}
  for index, reading in enumerate(readings):
    groups.setdefault(key(reading), []).append(index)
  distances: list[list[float]] = [[] for _ in readings]
  for members in groups.values():
    for a, b in itertools.combinations(members, 2):
      distance = token_distance(readings[a].tokens, readings[b].tokens)
      distances[a].append(distance)
      distances[b].append(distance)
  return distances


def longest_run(tokens: Int[np.ndarray, " steps"]) -> int:
  """Returns the length of the longest run of one token; 0 for an empty sequence."""
  tokens = np.asarray(tokens)
  if not len(tokens):
    return 0
  bounds = np.flatnonzero(np.concatenate([[True], tokens[1:] != tokens[:-1], [True]]))
  return int(np.diff(bounds).max())


def repetition_rate(
  tokens: Int[np.ndarray, " steps"], *, max_period: int = 16, min_repeats: int = 4
) -> float:
  """Returns the share of tokens in loops.

  Args:
    tokens: the sequence; collapse the repeats of semantic tokens, or long sounds are loops.
    max_period: maximum number of tokens that a loop repeats.
    min_repeats: minimum number of times that it repeats them.
  """
  tokens = np.asarray(tokens)
  looped = np.zeros(len(tokens), bool)
  for period in range(1, max_period + 1):
    if len(tokens) < period * min_repeats:
      break
    same = tokens[period:] == tokens[:-period]
    bounds = np.flatnonzero(np.diff(np.concatenate([[0], same.astype(int), [0]])))
    for start, end in bounds.reshape(-1, 2):
      if end - start >= period * (min_repeats - 1):
        looped[start : end + period] = True
  return float(looped.mean()) if len(tokens) else 0.0
