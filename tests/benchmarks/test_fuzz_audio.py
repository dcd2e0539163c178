"""The fuzz run of the sound reader."""

import numpy as np

from benchmarks import fuzz_audio


def test_mutated_files_are_read_or_refused_with_one_line(tmp_path):
  rng = np.random.default_rng(0)
  files = list(fuzz_audio.originals(rng).values())
  path = tmp_path / "sound"
  for content in files:
    path.write_bytes(content)
    assert fuzz_audio.outcome_of(path) == "read"
  outcomes = set()
  for _ in range(5):
    for content in files:
      path.write_bytes(fuzz_audio.mutated(content, files, rng))
      outcomes.add(fuzz_audio.outcome_of(path))
  assert outcomes == {"read", "refused"}
