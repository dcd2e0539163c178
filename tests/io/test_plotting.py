"""The spectrogram of a continuation."""

import sys

import numpy as np
import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.io import plotting


def test_a_tone_is_a_line_at_its_frequency():
  waveform = np.sin(2 * np.pi * 1_000 * np.arange(16_000) / 16_000).astype(np.float32)
  image = plotting.spectrogram_db(waveform, 16_000)
  assert image.max() == 0.0
  assert set(image[:, 5:-5].argmax(axis=0)) == {1_000 // (16_000 // 512)}


def test_an_hour_is_as_wide_as_a_minute():
  assert plotting.spectrogram_db(np.zeros(2_000_000, np.float32), 16_000).shape[1] == 1200


def test_the_plot_is_written_with_a_line_at_the_end_of_the_prompt(tmp_path):
  pytest.importorskip("matplotlib")
  waveform = np.random.default_rng(0).uniform(-0.1, 0.1, 32_000).astype(np.float32)
  plotting.plot_continuation(tmp_path / "with.png", waveform, 16_000, 16_000)
  plotting.plot_continuation(tmp_path / "without.png", waveform, 16_000, 0)
  first, second = ((tmp_path / name).read_bytes() for name in ("with.png", "without.png"))
  assert first.startswith(b"\x89PNG") and second.startswith(b"\x89PNG") and first != second
  assert len(list(tmp_path.iterdir())) == 2


def test_a_missing_matplotlib_is_reported_with_the_fix(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  with pytest.raises(UserError, match="pip install 'matplotlib"):
    plotting.plot_continuation(tmp_path / "a.png", np.zeros(100, np.float32), 16_000, 0)
