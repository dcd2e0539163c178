import sys

import numpy as np
import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation import opinion


def test_without_its_package_dnsmos_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, "speechmos", None)
  with pytest.raises(UserError, match=r"pip install -r requirements/evaluation\.txt"):
    opinion.Dnsmos()


def test_dnsmos_prefers_a_voice_to_the_same_in_noise(voice):
  pytest.importorskip("speechmos")
  pytest.importorskip("onnxruntime")
  model = opinion.Dnsmos()
  clean = voice(150, 900, seed=0, seconds=3)
  noise = 0.1 * np.random.default_rng(0).standard_normal(len(clean))
  better, worse = (model.rate(w.astype(np.float32), 16_000) for w in (clean, clean + noise))
  assert 1 <= worse.overall < better.overall <= 5
  assert worse.background + 0.5 < better.background
  assert np.isnan(model.rate(clean[:0], 16_000)).all()
