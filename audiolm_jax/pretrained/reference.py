"""Published models in Hugging Face transformers, for comparison; requires PyTorch."""

import dataclasses
import importlib
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.core.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class CodecReference:
  """A codec for one clip at a time, which is padded only by the model's feature extractor.

  Attributes:
    encode: maps waveform [samples] to codes [frames, quantizers] of all levels.
    decode: maps codes to waveform of `frames * hop_length` samples or a few samples fewer.
  """

  encode: Callable[[Float[np.ndarray, "samples"]], Int[np.ndarray, "frames q"]]
  decode: Callable[[Int[np.ndarray, "frames q"]], Float[np.ndarray, "samples"]]


@dataclasses.dataclass(frozen=True)
class EncoderReference:
  """An encoder for one clip at a time.

  Attributes:
    features: maps waveform [samples] to a list of arrays [frames, dim]: the input of the first
      layer, then the output of each layer.
  """

  features: Callable[[Float[np.ndarray, "samples"]], list[Float[np.ndarray, "_frames dim"]]]


def load_reference(folder: str | os.PathLike[str]) -> CodecReference | EncoderReference:
  """Loads the model of a folder in the format of Hugging Face transformers.

  Raises:
    UserError: transformers or PyTorch is not installed, or the folder does not contain a supported
      model with all its weights.
  """
  try:
    transformers = importlib.import_module("transformers")
    importlib.import_module("torch")
  except ModuleNotFoundError as error:
    raise UserError(
      f"the reference needs {error.name}; pip install -r requirements/pretrained.txt"
    ) from None
  try:
    model, info = transformers.AutoModel.from_pretrained(
      os.fspath(folder), output_loading_info=True
    )
  except (OSError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise UserError(f"transformers cannot read {folder} ({reason})") from error
  if info["missing_keys"]:
    raise UserError(
      f"transformers finds no {min(info['missing_keys'])!r} in {folder} and would take random "
      "weights for it; use the file from the page of the model"
    )
  return reference_of(model.eval())


def reference_of(model: Any) -> CodecReference | EncoderReference:
  """Returns the reference functions of a model of Hugging Face transformers.

  Raises:
    UserError: the kind of the model is not supported.
  """
  kind = model.config.model_type
  if kind not in _REFERENCES:
    raise UserError(f"a {kind} is not one of the references: {', '.join(_REFERENCES)}")
  return _REFERENCES[kind](model)


def _dac(model: Any) -> CodecReference:
  hop = model.config.hop_length

  def encode(clip: np.ndarray) -> np.ndarray:
    whole = np.pad(clip, (0, -len(clip) % hop))
    return _codes(model.encode(_row(whole)).audio_codes[0])

  def decode(codes: np.ndarray) -> np.ndarray:
    return _array(model.decode(audio_codes=_row(codes.T.astype(np.int64))[0]).audio_values[0])

  return CodecReference(_without_gradients(encode), _without_gradients(decode))


def _encodec(model: Any) -> CodecReference:
  def encode(clip: np.ndarray) -> np.ndarray:
    found = model.encode(_row(clip), bandwidth=model.config.target_bandwidths[-1])
    return _codes(found.audio_codes[0, 0])

  def decode(codes: np.ndarray) -> np.ndarray:
    found = model.decode(_row(codes.T.astype(np.int64)), [None])
    return _array(found.audio_values[0, 0])

  return CodecReference(_without_gradients(encode), _without_gradients(decode))


def _mimi(model: Any) -> CodecReference:
  def encode(clip: np.ndarray) -> np.ndarray:
    return _codes(model.encode(_row(clip)).audio_codes[0])

  def decode(codes: np.ndarray) -> np.ndarray:
    return _array(model.decode(_row(codes.T.astype(np.int64))[0]).audio_values[0, 0])

  return CodecReference(_without_gradients(encode), _without_gradients(decode))


def _hubert(model: Any) -> EncoderReference:
  transformers = importlib.import_module("transformers")
  # The large model was trained on clips of mean 0 and variance 1, the base model on original clips.
  extractor = transformers.Wav2Vec2FeatureExtractor(
    do_normalize=model.config.feat_extract_norm == "layer"
  )

  def features(clip: np.ndarray) -> list[np.ndarray]:
    inputs = extractor(clip, sampling_rate=16_000, return_tensors="pt").input_values
    return [_array(x[0]) for x in model(inputs, output_hidden_states=True).hidden_states]

  return EncoderReference(_without_gradients(features))


def _w2v_bert_2(model: Any) -> EncoderReference:
  transformers = importlib.import_module("transformers")
  extractor = transformers.SeamlessM4TFeatureExtractor()

  def features(clip: np.ndarray) -> list[np.ndarray]:
    inputs = extractor([clip], sampling_rate=16_000, return_tensors="pt")
    steps = int(inputs.attention_mask.sum())
    layers = model(**inputs, output_hidden_states=True).hidden_states
    return [_array(x[0, :steps]) for x in layers]

  return EncoderReference(_without_gradients(features))


_REFERENCES: dict[str, Callable[[Any], CodecReference | EncoderReference]] = {
  "dac": _dac,
  "encodec": _encodec,
  "mimi": _mimi,
  "hubert": _hubert,
  "wav2vec2-bert": _w2v_bert_2,
}


def _row(values: np.ndarray) -> Any:
  """Converts an array to a tensor with two more axes in front, [1, 1, ...]."""
  torch = importlib.import_module("torch")
  return torch.from_numpy(np.ascontiguousarray(values))[None, None]


def _array(tensor: Any) -> np.ndarray:
  return tensor.numpy()


def _codes(tensor: Any) -> np.ndarray:
  """Converts [quantizers, frames] to [frames, quantizers]."""
  return _array(tensor.T).astype(np.int32)


def _without_gradients(function: Callable[P, R]) -> Callable[P, R]:
  torch = importlib.import_module("torch")
  return torch.no_grad()(function)
