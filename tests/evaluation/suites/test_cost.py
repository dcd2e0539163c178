import sys

import numpy as np
import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation.suites.cost import measure_command


def test_time_and_memory_are_those_of_the_command():
  code = "import time; x = b'1' * 200_000_000; time.sleep(0.3)"
  cost = measure_command([sys.executable, "-c", code], {})
  assert cost.seconds > 0.3
  assert 200e6 < cost.peak_bytes < 400e6


def test_memory_of_the_measuring_process_does_not_count():
  ours = np.ones(600_000_000, np.uint8)
  cost = measure_command([sys.executable, "-c", "pass"], {})
  assert cost.peak_bytes < ours.nbytes / 4


def test_environment_is_added_to():
  code = "import os, sys; sys.exit(os.environ['ADDED'] != 'x' or 'PATH' not in os.environ)"
  measure_command([sys.executable, "-c", code], {"ADDED": "x"})


def test_a_failing_command_is_quoted():
  with pytest.raises(UserError, match="exited with 3; it printed: woe"):
    measure_command([sys.executable, "-c", "print('woe'); raise SystemExit(3)"], {})
