import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "make_piano_corpus.py"


@pytest.fixture(scope="module")
def script():
  spec = importlib.util.spec_from_file_location("make_piano_corpus", SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_silence_at_both_ends_is_cut_and_pauses_stay(script):
  tone = np.sin(np.arange(1, 100)).astype(np.float32)
  pause = np.zeros(500, np.float32)
  whole = np.concatenate([pause, tone, pause, tone, 1e-5 * tone, pause])
  np.testing.assert_array_equal(
    script.without_silent_ends(whole), np.concatenate([tone, pause, tone])
  )
