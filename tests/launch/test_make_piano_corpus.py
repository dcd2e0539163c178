import numpy as np


def test_silence_at_both_ends_is_cut_and_pauses_stay(load_script):
  script = load_script("make_piano_corpus")
  tone = np.sin(np.arange(1, 100)).astype(np.float32)
  pause = np.zeros(500, np.float32)
  whole = np.concatenate([pause, tone, pause, tone, 1e-5 * tone, pause])
  np.testing.assert_array_equal(
    script.without_silent_ends(whole), np.concatenate([tone, pause, tone])
  )
