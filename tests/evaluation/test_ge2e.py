import importlib.util
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.evaluation import ge2e
from audiolm_jax.io import audio

EXAMPLES = Path(__file__).parents[2] / "examples"
RATE = 16_000
DIM = 8


@pytest.fixture(scope="module")
def weights():
  """Random weights of a small network."""
  rng = np.random.default_rng(0)
  shapes = {"linear.weight": (6, DIM), "linear.bias": (6,)}
  for layer in range(3):
    shapes |= {
      f"lstm.weight_ih_l{layer}": (4 * DIM, DIM if layer else 40),
      f"lstm.weight_hh_l{layer}": (4 * DIM, DIM),
      f"lstm.bias_ih_l{layer}": (4 * DIM,),
      f"lstm.bias_hh_l{layer}": (4 * DIM,),
    }
  return {k: rng.standard_normal(shape).astype(np.float32) for k, shape in shapes.items()}


def test_the_network_is_three_lstm_layers_a_dense_one_and_a_length_of_1(weights):
  mel = np.random.default_rng(1).uniform(size=(2, 12, 40)).astype(np.float32)
  expected = jnp.asarray(mel)
  for layer in range(3):
    w = {k: weights[f"lstm.{k}_l{layer}"] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    gates = {}
    for name, i, h, b in zip(
      "ifgo",
      np.split(w["weight_ih"], 4),
      np.split(w["weight_hh"], 4),
      np.split(w["bias_ih"] + w["bias_hh"], 4),
      strict=True,
    ):
      gates |= {f"i{name}": {"kernel": i.T}, f"h{name}": {"kernel": h.T, "bias": b}}
    expected = nn.RNN(nn.OptimizedLSTMCell(DIM)).apply({"params": {"cell": gates}}, expected)
  expected = jax.nn.relu(expected[:, -1] @ weights["linear.weight"].T + weights["linear.bias"])  # pyright: ignore[reportArgumentType, reportCallIssue]: it is an array
  expected /= jnp.linalg.norm(expected, axis=-1, keepdims=True)
  np.testing.assert_allclose(ge2e._embed_pieces(weights, mel), expected, atol=1e-5)


def test_the_level_of_quiet_speech_and_pauses_do_not_change_the_voice(weights, voice):
  model = ge2e.Ge2e(weights)
  clip = 0.1 * voice(150, 900, seed=0, seconds=3)
  plain = model.embed(clip, RATE)
  assert np.linalg.norm(plain) == pytest.approx(1, abs=1e-5)
  np.testing.assert_allclose(model.embed(0.2 * clip, RATE), plain, atol=1e-3)
  paused = np.concatenate([np.zeros(2 * RATE, np.float32), clip, np.zeros(2 * RATE, np.float32)])
  other = model.embed(voice(260, 2_500, seed=1, seconds=3), RATE)
  assert model.embed(paused, RATE) @ plain > 0.999 > other @ plain


def test_sound_shorter_than_a_piece_and_silence_have_a_vector(weights):
  model = ge2e.Ge2e(weights)
  tone = np.sin(np.arange(300)).astype(np.float32)
  assert np.linalg.norm(model.embed(tone, RATE)) == pytest.approx(1, abs=1e-5)
  np.testing.assert_array_equal(model.embed(np.zeros(RATE, np.float32), RATE), np.zeros(6))


class Storage:
  def __init__(self, key):
    self.key = key


class Tensor:
  """Is pickled as PyTorch pickles its tensors."""

  def __init__(self, *arguments):
    self.arguments = arguments

  def __reduce__(self):
    return sys.modules["torch._utils"]._rebuild_tensor_v2, self.arguments


class Pickler(pickle.Pickler):
  def persistent_id(self, obj):
    kind = sys.modules["torch"].FloatStorage
    return ("storage", kind, obj.key, "cpu", 6, None) if isinstance(obj, Storage) else None


def write_torch_file(path, content, data):
  with open(path, "wb") as file:
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, content, list(data)):
      Pickler(file, 2).dump(part)
    for values in data.values():
      file.write(len(values).to_bytes(8, "little") + values.astype("<f4").tobytes())


@pytest.fixture
def torch_names(monkeypatch):
  """Names of PyTorch that pickles refer to."""

  def _rebuild_tensor_v2(*arguments):
    raise AssertionError("the file is read without PyTorch")

  torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
  _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = (
    utils.__name__,
    "_rebuild_tensor_v2",
  )
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # pyright: ignore[reportAttributeAccessIssue]: the module is a double
  torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})  # pyright: ignore[reportAttributeAccessIssue]: the module is a double
  monkeypatch.setitem(sys.modules, "torch", torch)
  monkeypatch.setitem(sys.modules, "torch._utils", utils)


def test_tensors_are_read_with_their_offsets_and_strides(tmp_path, torch_names):
  whole = Tensor(Storage("a"), 0, (2, 3), (3, 1), False, OrderedDict())
  turned = Tensor(Storage("a"), 1, (2, 2), (1, 3), False, OrderedDict())
  content = {"step": 7, "model_state": OrderedDict(whole=whole, turned=turned)}
  write_torch_file(tmp_path / "w.pt", content, {"a": np.arange(6.0)})
  read = ge2e.read_torch_file(tmp_path / "w.pt")
  assert read["step"] == 7
  np.testing.assert_array_equal(read["model_state"]["whole"], [[0, 1, 2], [3, 4, 5]])
  np.testing.assert_array_equal(read["model_state"]["turned"], [[1, 4], [2, 5]])


def test_code_in_a_file_does_not_run_and_tensors_stay_within_their_data(tmp_path, torch_names):
  write_torch_file(tmp_path / "code.pt", {"a": print}, {})
  with pytest.raises(DataError, match=r"code\.pt .*print"):
    ge2e.read_torch_file(tmp_path / "code.pt")
  beyond = Tensor(Storage("a"), 4, (3,), (1,), False, OrderedDict())
  write_torch_file(tmp_path / "beyond.pt", beyond, {"a": np.arange(6.0)})
  with pytest.raises(DataError, match="exceeds its data"):
    ge2e.read_torch_file(tmp_path / "beyond.pt")


def test_without_its_package_ge2e_names_the_extra(monkeypatch):
  monkeypatch.setattr(ge2e.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install --no-deps resemblyzer"):
    ge2e.load_ge2e()


@pytest.mark.skipif(
  importlib.util.find_spec("resemblyzer") is None,
  reason="the package with the weights is not there",
)
def test_the_published_network_distinguishes_a_woman_from_a_man():
  model = ge2e.load_ge2e()
  halves = []
  for name in ("speech_woman", "speech_man"):
    clip = audio.load_audio(EXAMPLES / f"{name}.flac", RATE)
    halves.append([model.embed(half, RATE) for half in np.array_split(clip, 2)])
  (woman, again), (man, other) = halves
  assert min(woman @ again, man @ other) > 0.7 > max(woman @ man, again @ other)
