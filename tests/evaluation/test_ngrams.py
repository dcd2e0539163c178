import numpy as np
import pytest

from audiolm_jax.evaluation.ngrams import NgramTable
from audiolm_jax.lm import stages

SEMANTIC = stages.semantic_stage(num_clusters=8, collapse_repeats=False)
COARSE = stages.coarse_stage(num_clusters=8, codebook_size=4, num_target_quantizers=2)
FINE = stages.fine_stage(codebook_size=4, num_source_quantizers=2, num_target_quantizers=2)


def chain(rng, steps: int, size: int = 8) -> np.ndarray:
  """A walk that goes one up or two up with probabilities 3/4 and 1/4: entropy 0.5623 nats."""
  return np.cumsum(1 + (rng.random(steps) < 0.25)) % size


def test_bigram_finds_the_entropy_of_a_markov_chain_and_unigram_does_not():
  rng = np.random.default_rng(0)
  train = [stages.stage_sequence(SEMANTIC, chain(rng, 5000))]
  valid = [stages.stage_sequence(SEMANTIC, chain(rng, 5000))]
  losses = NgramTable(SEMANTIC, train).losses(valid)
  entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
  assert losses.bigram == pytest.approx(entropy, abs=0.02)
  assert losses.bigram_backoff == pytest.approx(entropy, abs=0.02)
  assert losses.unigram == pytest.approx(np.log(8), abs=0.01)
  assert losses.uniform == pytest.approx(np.log(8))
  assert losses.num_targets == 5000


@pytest.mark.parametrize("spec", [SEMANTIC, COARSE, FINE], ids=lambda s: s.name)
def test_probabilities_over_the_legal_ids_sum_to_one(spec):
  rng = np.random.default_rng(0)
  semantic, codes = rng.integers(0, 8, 20), rng.integers(0, 4, (40, 4))
  sequence = stages.stage_sequence(spec, semantic, codes)
  table = NgramTable(spec, [sequence])
  previous = int(sequence.tokens[-2])
  last = np.flatnonzero(sequence.loss_weights)[-1] - np.flatnonzero(sequence.loss_weights)[0]
  legal = spec.layout.legal_range(
    int(last), spec.first_target_quantizer, spec.num_target_quantizers
  )
  targets = legal.start + np.arange(legal.size)
  before = np.full(legal.size, previous)
  assert table.unigram(targets, 0.1).sum() == pytest.approx(1)
  assert table.bigram(before, targets, 0.1).sum() == pytest.approx(1)
  assert table.bigram_backoff(before, targets, 3.0).sum() == pytest.approx(1)


def test_source_tokens_are_not_scored():
  rng = np.random.default_rng(0)
  sequence = stages.stage_sequence(COARSE, rng.integers(0, 8, 20), rng.integers(0, 4, (40, 2)))
  assert NgramTable(COARSE, [sequence]).losses([sequence]).num_targets == 80


def test_backoff_is_no_worse_than_adding_a_constant_on_little_data():
  rng = np.random.default_rng(0)
  skewed = np.minimum(rng.geometric(0.5, 400) - 1, 7)
  train, valid = (stages.stage_sequence(SEMANTIC, part) for part in (skewed[:80], skewed[80:]))
  losses = NgramTable(SEMANTIC, [train]).losses([valid])
  assert losses.bigram_backoff <= losses.bigram


def test_a_table_without_training_data_has_the_loss_of_a_uniform_distribution():
  rng = np.random.default_rng(0)
  losses = NgramTable(SEMANTIC, []).losses([stages.stage_sequence(SEMANTIC, chain(rng, 50))])
  found = (losses.unigram, losses.bigram, losses.bigram_backoff)
  assert found == pytest.approx((np.log(8),) * 3)
