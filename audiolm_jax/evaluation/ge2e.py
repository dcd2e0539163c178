"""GE2E speaker embeddings: a published network of three LSTM layers.

The weights are a file of the package resemblyzer. The code of the package is not used, because it
needs PyTorch and a voice detector that fails with current versions of setuptools.

Source:
  Wan et al., Generalized end-to-end loss for speaker verification, 2018; the weights and the
  spectrogram come from Resemblyzer 0.1.4.
"""

import dataclasses
import importlib.util
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.core.modules import Params
from audiolm_jax.evaluation.signal import spectrogram
from audiolm_jax.io import audio

GE2E_MISSING = (
  "GE2E needs the weights in a package: pip install --no-deps resemblyzer==0.1.4 "
  "(--no-deps, because its code is not used)"
)

_RATE = 16_000
_WINDOW, _HOP, _MELS = 400, 160, 40
_FRAMES, _STEP = 160, 80  # frames of a piece, and from one piece to the next
_LEVEL = 10 ** (-30 / 20)  # minimum root mean square after normalisation
_BLOCK = 480  # samples that are kept or removed together
_SILENCE = 10 ** (-35 / 20)  # minimum level of speech, relative to the level of the loud blocks
_KEPT_BLOCKS = 4  # blocks that are kept on either side of speech
_LAYERS = 3


@dataclasses.dataclass(frozen=True)
class Ge2e:
  """The GE2E network.

  Attributes:
    weights: weights of the LSTM and of the linear layer, by their names in PyTorch.
  """

  weights: Mapping[str, np.ndarray]

  def embed(
    self, waveform: Float[np.ndarray, " samples"], sample_rate: int
  ) -> Float[np.ndarray, " dim"]:
    """Returns an embedding of the voice, a unit vector; zeros for silence.

    The embedding is the mean over pieces of 1.6 s, after long pauses are removed.
    """
    speech = _without_pauses(audio.resample(waveform, sample_rate, _RATE))
    level = float(np.sqrt(np.mean(np.square(speech)))) if len(speech) else 0.0
    if not level:
      return np.zeros(len(self.weights["linear.bias"]), np.float32)
    mel = _mel_spectrogram(speech * max(1.0, _LEVEL / level))
    pieces = np.stack([mel[i : i + _FRAMES] for i in range(0, len(mel) - _FRAMES + 1, _STEP)])
    # The number of pieces is padded to a power of two, so that few shapes are compiled.
    padding = (1 << (len(pieces) - 1).bit_length()) - len(pieces)
    padded = np.pad(pieces, ((0, padding), (0, 0), (0, 0)))
    vector = np.asarray(_embed_pieces(self.weights, padded))[: len(pieces)].mean(axis=0)
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def load_ge2e() -> Ge2e:
  """Loads the published network.

  Raises:
    UserError: the package with the weights is not installed.
    DataError: the file with the weights cannot be read.
  """
  found = importlib.util.find_spec("resemblyzer")
  if found is None or not found.submodule_search_locations:
    raise UserError(GE2E_MISSING)
  path = os.path.join(found.submodule_search_locations[0], "pretrained.pt")
  wanted = [f"lstm.{k}_l{i}" for i in range(_LAYERS) for k in ("weight_ih", "weight_hh", "bias_ih")]
  wanted += [f"lstm.bias_hh_l{i}" for i in range(_LAYERS)] + ["linear.weight", "linear.bias"]
  weights = read_torch_file(path)["model_state"]
  return Ge2e({name: weights[name] for name in wanted})


def read_torch_file(path: str | os.PathLike[str]) -> Any:
  """Reads a file that `torch.save` of PyTorch 1.5 or older has written.

  Only dictionaries, lists, numbers, texts and float tensors are allowed, so that the file cannot
  run code.

  Raises:
    DataError: the file contains other objects, or cannot be read.
  """
  try:
    with open(path, "rb") as file:
      for _ in range(3):  # a magic number, the version of the format, the properties of the machine
        _Unpickler(file).load()
      content = _Unpickler(file).load()
      data = {}
      for key in _Unpickler(file).load():
        (count,) = np.frombuffer(file.read(8), "<i8")
        data[key] = np.frombuffer(file.read(4 * int(count)), "<f4")
    return _with_data(content, data)
  except (OSError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
    raise DataError(f"{path} cannot be read as a file of PyTorch 1.5 or older ({error})") from error


class _Tensor(NamedTuple):
  storage: str
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def _tensor(storage: str, offset: int, shape: tuple, strides: tuple, *_: object) -> _Tensor:
  return _Tensor(storage, offset, shape, strides)


class _Unpickler(pickle.Unpickler):
  def __init__(self, file: BinaryIO):
    super().__init__(file)

  def find_class(self, module: str, name: str) -> Callable[..., object] | str:
    known: dict[tuple[str, str], Callable[..., object] | str] = {
      ("collections", "OrderedDict"): OrderedDict,
      ("torch._utils", "_rebuild_tensor_v2"): _tensor,
      ("torch", "FloatStorage"): "float",
    }
    if (module, name) not in known:
      raise pickle.UnpicklingError(f"it contains {module}.{name}")
    return known[module, name]

  def persistent_load(self, pid: tuple) -> str:
    return pid[2]  # the key of the storage, after "storage" and its type


def _with_data(value: object, data: Mapping[str, np.ndarray]) -> object:
  if isinstance(value, _Tensor):
    flat = data[value.storage]
    last = sum((n - 1) * s for n, s in zip(value.shape, value.strides, strict=True))
    if 0 in value.shape or value.offset < 0 or not 0 <= value.offset + last < len(flat):
      raise ValueError("a tensor exceeds its data")
    strides = [4 * s for s in value.strides]
    view = np.lib.stride_tricks.as_strided(flat[value.offset :], value.shape, strides)
    return np.array(view)
  if isinstance(value, dict):
    return {key: _with_data(each, data) for key, each in value.items()}
  if isinstance(value, list | tuple):
    return [_with_data(each, data) for each in value]
  return value


def _without_pauses(waveform: Float[np.ndarray, " samples"]) -> Float[np.ndarray, " speech"]:
  """Removes blocks that are not near a loud block; repeats short speech to fill one piece."""
  whole = waveform[: len(waveform) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
  if not len(whole):
    whole = np.pad(waveform, (0, _BLOCK - len(waveform)))[None]
  levels = np.sqrt(np.mean(np.square(whole), axis=-1))
  loud = levels > _SILENCE * np.quantile(levels, 0.95)
  near = np.convolve(loud, np.ones(2 * _KEPT_BLOCKS + 1), mode="same") > 0
  speech = whole[near[: len(whole)]].ravel()
  least = _FRAMES * _HOP
  return np.tile(speech, -(-least // len(speech))) if 0 < len(speech) < least else speech


def _mel_spectrogram(waveform: Float[np.ndarray, " samples"]) -> Float[np.ndarray, "frames mels"]:
  """Returns the power of the mel bands, without a logarithm."""
  import librosa

  magnitudes = spectrogram(waveform, _WINDOW, _HOP) * (_WINDOW / 4)  # half the sum of the window
  filters = librosa.filters.mel(sr=_RATE, n_fft=_WINDOW, n_mels=_MELS)
  return (np.square(magnitudes) @ filters.T).astype(np.float32)


def _embed_pieces_fn(
  weights: Params, mel: Float[jax.Array, "pieces frames mels"]
) -> Float[jax.Array, "pieces dim"]:
  inputs = jnp.swapaxes(mel, 0, 1)
  for layer in range(_LAYERS):
    inputs = _lstm(
      inputs,
      weights[f"lstm.weight_ih_l{layer}"],
      weights[f"lstm.weight_hh_l{layer}"],
      weights[f"lstm.bias_ih_l{layer}"] + weights[f"lstm.bias_hh_l{layer}"],
    )
  vectors = jax.nn.relu(inputs[-1] @ weights["linear.weight"].T + weights["linear.bias"])
  return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _lstm(
  inputs: Float[jax.Array, "frames pieces inputs"],
  from_inputs: Float[jax.Array, "gates inputs"],
  from_state: Float[jax.Array, "gates dim"],
  bias: Float[jax.Array, " gates"],
) -> Float[jax.Array, "frames pieces dim"]:
  def step(carry, given):
    state, cell = carry
    enter, forget, value, leave = jnp.split(given + state @ from_state.T, 4, axis=-1)
    cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(value)
    state = jax.nn.sigmoid(leave) * jnp.tanh(cell)
    return (state, cell), state

  start = jnp.zeros((inputs.shape[1], from_state.shape[1]))
  return jax.lax.scan(step, (start, start), inputs @ from_inputs.T + bias)[1]


_embed_pieces: Callable[..., jax.Array] = jax.jit(_embed_pieces_fn)
