"""Cuts of long recordings: where it is quiet, and no piece too long."""

import numpy as np

from audiolm_jax.bundles import pauses


def test_each_piece_ends_at_the_quietest_step_of_its_second_half():
  levels = np.ones(100)
  levels[[25, 31, 60, 95]] = 0.1
  found = pauses.cuts(levels, 40)
  assert found == [25, 60] and not pauses.cuts(levels[:40], 40)
  assert max(np.diff([0, *found, 100])) <= 40
  assert pauses.cuts(np.ones(5), 1) == [1, 2, 3, 4]


def test_the_pieces_of_a_recording_are_cut_by_its_samples():
  waveform = np.full(1_000, 0.5, np.float32)
  waveform[600:650] = 0.01
  levels = pauses.loudness(waveform, 20)
  np.testing.assert_allclose(levels, [0.5] * 12 + [0.01] + [0.5] * 7, rtol=1e-5)
  semantic = np.arange(20)
  found = pauses.pieces(waveform, semantic, 15)
  assert [len(piece) for piece in found] == [12, 8]
  np.testing.assert_array_equal(np.concatenate(found), semantic)
  (whole,) = pauses.pieces(waveform, semantic, 20)
  np.testing.assert_array_equal(whole, semantic)
