"""Unigram and bigram tables of a stage's tokens, the baselines of a trained stage."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.lm.stages import AutoregressiveSpec, StageSequence
from audiolm_jax.lm.tokens import BOS

ADDED_COUNTS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclasses.dataclass(frozen=True)
class TableLosses:
  """Losses of n-gram tables, in nats per target token.

  The smoothing constant of each table is the value with the lowest loss on the held-out data.

  Attributes:
    unigram: loss if the probability of a token is its frequency among the ids that are legal at its
      position. The smoothing constant is added to every count.
    bigram: like `unigram`, but with the frequency of a token after the previous token.
    bigram_backoff: like `bigram`, but with a multiple of the unigram probability added to every
      count; usually the strongest baseline.
    uniform: loss of the uniform distribution, log(number of legal ids).
    num_targets: number of target tokens.
  """

  unigram: float
  bigram: float
  bigram_backoff: float
  uniform: float
  num_targets: int


class NgramTable:
  """Counts of target tokens and of pairs (previous token, target token) in training sequences.

  Probabilities are over the ids that are legal at a position (one codebook or the clusters), as in
  sampling, where other ids are masked. The token before the first token of a sequence is BOS.

  Args:
    spec: spec of the stage.
    sequences: training sequences.
  """

  def __init__(self, spec: AutoregressiveSpec, sequences: Sequence[StageSequence]):
    self._spec = spec
    self._size = spec.num_clusters if spec.predicts_semantic else spec.codebook_size
    self._vocab = spec.layout.vocab_size
    previous, targets = _pairs(sequences)
    self._unigram = np.bincount(targets, minlength=self._vocab).astype(np.float64)
    self._pairs, self._pair_counts = np.unique(
      previous.astype(np.int64) * self._vocab + targets, return_counts=True
    )
    self._contexts = np.bincount(previous, minlength=self._vocab).astype(np.float64)
    starts = np.arange(max(1, spec.num_target_quantizers)) * self._size
    first = spec.layout.legal_range(0, spec.first_target_quantizer, spec.num_target_quantizers)
    self._level_totals = np.array(
      [self._unigram[first.start + s : first.start + s + self._size].sum() for s in starts]
    )
    self._first_id = first.start

  def losses(self, sequences: Sequence[StageSequence]) -> TableLosses:
    """Returns the mean losses over all targets, with the best smoothing constant for each table.

    Raises:
      ValueError: the sequences have no targets.
    """
    previous, targets = _pairs(sequences)
    if not len(targets):
      raise ValueError("the sequences have no target token")
    return TableLosses(
      unigram=min(_nats(self.unigram(targets, k)) for k in ADDED_COUNTS),
      bigram=min(_nats(self.bigram(previous, targets, k)) for k in ADDED_COUNTS),
      bigram_backoff=min(
        _nats(self.bigram_backoff(previous, targets, weight))
        for weight in (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
      ),
      uniform=float(np.log(self._size)),
      num_targets=len(targets),
    )

  def unigram(self, targets: Int[np.ndarray, " n"], added: float) -> Float[np.ndarray, " n"]:
    """Returns the probability of each target; `added` is added to every count."""
    level = (targets - self._first_id) // self._size
    return (self._unigram[targets] + added) / (self._level_totals[level] + added * self._size)

  def bigram(
    self, previous: Int[np.ndarray, " n"], targets: Int[np.ndarray, " n"], added: float
  ) -> Float[np.ndarray, " n"]:
    """Returns each target's probability after the previous token, with `added` in every count."""
    total = self._contexts[previous] + added * self._size
    return (self._count(previous, targets) + added) / total

  def bigram_backoff(
    self, previous: Int[np.ndarray, " n"], targets: Int[np.ndarray, " n"], weight: float
  ) -> Float[np.ndarray, " n"]:
    """Returns the probability of each target after the previous token, with a unigram prior.

    Args:
      previous: token before each target.
      targets: the targets.
      weight: weight of the unigram probability, as a number of counts.

    Source: MacKay and Peto, A hierarchical Dirichlet language model, equation 11.
    """
    prior = self.unigram(targets, added=0.1)
    return (self._count(previous, targets) + weight * prior) / (self._contexts[previous] + weight)

  def _count(self, previous: np.ndarray, targets: np.ndarray) -> Float[np.ndarray, " n"]:
    if not len(self._pairs):
      return np.zeros(len(targets))
    keys = previous.astype(np.int64) * self._vocab + targets
    at = np.minimum(np.searchsorted(self._pairs, keys), len(self._pairs) - 1)
    return np.where(self._pairs[at] == keys, self._pair_counts[at], 0).astype(np.float64)


def _pairs(sequences: Sequence[StageSequence]) -> tuple[np.ndarray, np.ndarray]:
  previous, targets = [], []
  for sequence in sequences:
    shifted = np.concatenate([[BOS], sequence.tokens[:-1]])
    scored = sequence.loss_weights > 0
    previous.append(shifted[scored])
    targets.append(sequence.tokens[scored])
  empty = np.zeros(0, np.int64)
  return np.concatenate([empty, *previous]).astype(np.int64), np.concatenate(
    [empty, *targets]
  ).astype(np.int64)


def _nats(probabilities: Float[np.ndarray, " n"]) -> float:
  return float(-np.log(probabilities).mean())
