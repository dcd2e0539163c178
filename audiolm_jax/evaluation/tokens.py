"""Distances between token sequences, and loops in token sequences."""

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

  Source: Levenshtein's distance by dynamic programming, row by row.
  """
  one, other = np.asarray(one), np.asarray(other)
  steps = np.arange(len(other) + 1)
  row = steps.copy()
  for number, token in enumerate(one, 1):
    # First deletions and substitutions; then insertions along the row, by a cumulative minimum of
    # the row minus the column index.
    ahead = np.concatenate([[number], np.minimum(row[1:] + 1, row[:-1] + (other != token))])
    row = np.minimum.accumulate(ahead - steps) + steps
  return int(row[-1])


def token_distance(one: Int[np.ndarray, " m"], other: Int[np.ndarray, " n"]) -> float:
  """Returns the edit distance divided by the longer length, 0 to 1; repeats are collapsed first."""
  one, other = collapse_repeats(one), collapse_repeats(other)
  return edit_distance(one, other) / max(1, len(one), len(other))


@dataclasses.dataclass(frozen=True)
class Reading:
  """Tokens of one sentence, read by one speaker.

  Attributes:
    sentence: text or id of the sentence.
    speaker: name of the speaker.
    tokens: semantic tokens.
  """

  sentence: str
  speaker: str
  tokens: Int[np.ndarray, " steps"]


@dataclasses.dataclass(frozen=True)
class TripleReport:
  """Results that show whether tokens depend on the sentence rather than on the speaker.

  A triple has three readings. The second reading has the sentence of the first reading and another
  speaker. The third reading has the speaker of the first reading and another sentence.

  Attributes:
    accuracy: share of triples in which the first reading is nearer to the second reading than to
      the third; ties count half. The interval is over sentences.
    same_sentence: mean distance between readings of one sentence by two speakers.
    same_speaker: mean distance between readings of two sentences by one speaker.
    num_triples: number of triples.
    by_speaker: accuracy for each speaker, by name, over the triples whose first reading is by this
      speaker.
  """

  accuracy: Estimate
  same_sentence: float
  same_speaker: float
  num_triples: int
  by_speaker: dict[str, float]


def triple_accuracy(readings: Sequence[Reading]) -> TripleReport:
  """Returns the accuracy over all triples of readings; see `TripleReport`.

  Args:
    readings: the readings; a speaker reads a sentence at most once.

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
  """Returns, for each reading, the distances to all other readings with an equal `key(reading)`."""
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
  """Returns the length of the longest run of equal tokens; 0 for an empty sequence."""
  tokens = np.asarray(tokens)
  if not len(tokens):
    return 0
  bounds = np.flatnonzero(np.concatenate([[True], tokens[1:] != tokens[:-1], [True]]))
  return int(np.diff(bounds).max())


def repetition_rate(
  tokens: Int[np.ndarray, " steps"], *, max_period: int = 16, min_repeats: int = 4
) -> float:
  """Returns the share of tokens in loops, which are consecutive repetitions of a short sequence.

  Args:
    tokens: the tokens. Collapse repeats of semantic tokens first, because a long sound would count
      as a loop.
    max_period: maximum length of the repeated sequence in tokens.
    min_repeats: minimum number of times that the repeated sequence occurs in a loop.
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
