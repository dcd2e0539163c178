import os
from pathlib import Path

import numpy as np
import pytest

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation import lyra, signal

# Of github.com/google/lyra, lyra/model_coeffs.
MODELS = Path(os.environ.get("LYRA_DIR", Path(__file__).parents[3] / "shared/data/lyra"))
needs_lyra = pytest.mark.skipif(
  not (lyra.lyra_installed() and MODELS.is_dir()),
  reason="ai-edge-litert or the folder LYRA_DIR with Lyra's models is not there",
)


@pytest.fixture(scope="module")
def speech(voice):
  return voice(150, 900, seed=0, seconds=2)[:-100]


@needs_lyra
def test_lyra_has_no_delay_and_improves_with_the_bit_rate(speech):
  codecs = lyra.lyra_codecs(MODELS)
  assert [codec.name for codec in codecs] == [
    f"Lyra v2 at {kbits} kbit/s" for kbits in ("3.2", "6", "9.2")
  ]
  distances = []
  for codec, expected in zip(codecs, (3200, 6000, 9200), strict=True):
    decoded, rate = codec.through(speech)
    assert rate == expected and decoded.shape == speech.shape
    late = [
      np.dot(decoded[1_000 + shift : 30_000 + shift], speech[1_000:30_000])
      for shift in range(-400, 401)
    ]
    assert abs(int(np.argmax(late)) - 400) <= 2
    distances.append(signal.log_mel_distance(speech, decoded, codec.sample_rate))
  assert distances == sorted(distances, reverse=True)


@needs_lyra
def test_lyra_keeps_no_state_between_clips(speech):
  codec = lyra.lyra_codecs(MODELS)[0]
  first, _ = codec.through(speech)
  codec.through(0.5 * speech[::-1])
  np.testing.assert_array_equal(codec.through(speech)[0], first)


@needs_lyra
def test_a_file_that_is_no_model_is_named(tmp_path):
  for name in lyra.LYRA_FILES:
    (tmp_path / name).write_bytes(b"no model" * 100)
  with pytest.raises(UserError, match=r"soundstream_encoder\.tflite is not a TFLite model"):
    lyra.lyra_codecs(tmp_path)


@needs_lyra
def test_a_model_that_is_missing_is_named_with_where_it_is_found(tmp_path):
  with pytest.raises(UserError, match=r"soundstream_encoder.tflite: No such file.*google/lyra"):
    lyra.lyra_codecs(tmp_path)


def test_without_its_package_lyra_names_the_extra(monkeypatch, tmp_path):
  monkeypatch.setattr(lyra, "lyra_installed", lambda: False)
  with pytest.raises(UserError, match=r"pip install -r requirements/evaluation\.txt"):
    lyra.lyra_codecs(tmp_path)
