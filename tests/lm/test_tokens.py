"""The token layout."""

import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.lm.tokens import NUM_RESERVED, TokenLayout, collapse_repeats, cut_runs


def test_ids_of_the_papers_layout_are_those_of_the_table():
  layout = TokenLayout()
  assert layout.vocab_size == 4 + 1024 + 12 * 1024
  assert layout.semantic_to_ids(np.array([0, 1023])).tolist() == [4, 1027]
  codes = np.array([[0, 1], [2, 1023]])
  assert layout.flatten_codes(codes).tolist() == [1028, 2053, 1030, 3075]
  assert layout.flatten_codes(codes, first_quantizer=4).tolist() == [5124, 6149, 5126, 7171]


@pytest.mark.parametrize("xp", [np, jnp])
def test_unflatten_inverts_flatten(xp):
  layout = TokenLayout(num_clusters=7, num_quantizers=5, codebook_size=11)
  codes = np.random.default_rng(0).integers(0, 11, (2, 6, 3))
  ids = layout.flatten_codes(xp.asarray(codes), first_quantizer=2)
  assert ids.shape == (2, 18)
  np.testing.assert_array_equal(layout.unflatten_ids(ids, 3, first_quantizer=2), codes)


def test_ranges_partition_the_vocabulary():
  layout = TokenLayout(num_clusters=7, num_quantizers=3, codebook_size=11)
  ranges = [layout.semantic_range, *(layout.quantizer_range(q) for q in range(3))]
  ids = [i for start, size in ranges for i in range(start, start + size)]
  assert ids == list(range(NUM_RESERVED, layout.vocab_size))


def test_every_flattened_code_is_legal_at_its_position():
  layout = TokenLayout(num_clusters=7, num_quantizers=5, codebook_size=11)
  codes = np.random.default_rng(0).integers(0, 11, (6, 3))
  for position, token in enumerate(layout.flatten_codes(codes, first_quantizer=2)):
    start, size = layout.legal_range(position, 2, 3)
    assert start <= token < start + size


def test_semantic_targets_are_legal_anywhere():
  assert TokenLayout(7, 0, 11).legal_range(5, 0, 0) == (4, 7)


def test_collapse_keeps_the_first_of_each_run():
  assert collapse_repeats(np.array([5, 5, 1, 1, 1, 5])).tolist() == [5, 1, 5]
  assert collapse_repeats(np.array([], np.int32)).tolist() == []


def test_runs_are_cut_to_their_beginning():
  tokens = np.array([5, 5, 1, 1, 1, 1, 5, 5, 5], np.int32)
  assert cut_runs(tokens, 2).tolist() == [5, 5, 1, 1, 5, 5]
  assert cut_runs(tokens, 9).tolist() == tokens.tolist()
  assert cut_runs(tokens[:0], 2).tolist() == []


def test_a_quantizer_outside_the_layout_is_refused():
  with pytest.raises(ConfigError, match="quantizers 2 to 3 are outside"):
    TokenLayout(0, 3, 8).flatten_codes(np.zeros((1, 2), np.int32), first_quantizer=2)
