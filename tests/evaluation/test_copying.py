import numpy as np

from audiolm_jax.evaluation.copying import Copies


def test_stretches_are_found_wherever_they_are_and_others_are_not():
  rng = np.random.default_rng(0)
  known = [rng.integers(0, 64, 1000), rng.integers(0, 64, 7)]
  copies = Copies(10, known)
  new = rng.integers(0, 64, 200)
  assert copies.count(new) == (0, 191)
  new[50:75] = known[0][300:325]  # 16 stretches of 10 within these 25 tokens
  assert copies.count(new) == (16, 191)
  assert copies.count(known[0]) == (991, 991)


def test_stretches_do_not_continue_in_the_next_sequence():
  copies = Copies(4, [np.arange(4), np.arange(4, 8)])
  assert copies.count(np.arange(8)) == (2, 5)


def test_order_and_zeros_matter():
  copies = Copies(3, [np.array([0, 0, 1])])
  found = [copies.count(np.array(t))[0] for t in ([0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 0])]
  assert found == [1, 0, 0, 0]


def test_short_sequences_have_no_stretches_and_another_set_can_be_added():
  nothing, something = Copies(3, []), Copies(3, [np.arange(5)])
  assert nothing.count(np.arange(2)) == (0, 0)
  assert nothing.count(np.arange(5)) == (0, 3)
  assert nothing.count(np.arange(5), also=something) == (3, 3)
