"""Lyra v2, Google's public SoundStream for speech, run by LiteRT."""

import importlib.util
import os
from typing import Any

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import UserError
from audiolm_jax.evaluation.outside_codecs import OutsideCodec

LYRA_MISSING = "Lyra needs an extra: pip install -r requirements/evaluation.txt"
LYRA_FILES = ("soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite")

_SAMPLE_RATE = 16_000
_HOP_LENGTH = 320
_BITS_PER_CODE = 4  # codebooks of 16 entries
_LEVELS = (16, 30, 46)


def lyra_installed() -> bool:
  """Returns whether the package ai-edge-litert, which runs the models, is installed."""
  return importlib.util.find_spec("ai_edge_litert") is not None


def lyra_codecs(folder: str | os.PathLike[str]) -> list[OutsideCodec]:
  """Returns Lyra v2 at its three bit rates; its output has no delay.

  Args:
    folder: folder with the files of the models, `LYRA_FILES`.

  Raises:
    UserError: the package ai-edge-litert or a file is missing, or a file is not a model.

  Source: Lyra 1.3.2, github.com/google/lyra.
  """
  if not lyra_installed():
    raise UserError(LYRA_MISSING)
  models = [_read_model(os.path.join(folder, name)) for name in LYRA_FILES]

  def at_levels(levels: int) -> OutsideCodec:
    rate = levels * _BITS_PER_CODE * _SAMPLE_RATE / _HOP_LENGTH
    name = f"Lyra v2 at {rate / 1000:g} kbit/s"
    return OutsideCodec(name, _SAMPLE_RATE, lambda clip: (_through(models, clip, levels), rate))

  return [at_levels(levels) for levels in _LEVELS]


def _through(
  models: list[bytes], waveform: Float[np.ndarray, " samples"], levels: int
) -> Float[np.ndarray, " samples"]:
  # Each clip needs new interpreters, because the variables of an interpreter keep the state of the
  # previous clip, and reset_all_variables() does not reset them.
  encoder, quantizer, decoder = (_interpreter(model) for model in models)
  encode, decode = encoder.get_signature_runner(), decoder.get_signature_runner()
  quantize, look_up = (quantizer.get_signature_runner(name) for name in ("encode", "decode"))
  frames = np.pad(waveform, (0, -len(waveform) % _HOP_LENGTH)).reshape(-1, 1, _HOP_LENGTH)
  decoded = []
  for frame in frames.astype(np.float32):
    latent = encode(input_audio=frame)["output_0"]
    codes = quantize(input_frames=latent, num_quantizers=np.int32(levels))["output_0"]
    latent = look_up(encoding_indices=codes)["output_0"]
    decoded.append(decode(input_audio=latent)["output_0"][0])
  return np.concatenate(decoded)[: len(waveform)]


def _read_model(path: str) -> bytes:
  try:
    with open(path, "rb") as file:
      model = file.read()
  except OSError as error:
    raise UserError(
      f"cannot read {path}: {error.strerror}; --lyra_dir is a folder with {', '.join(LYRA_FILES)}, "
      "which are in lyra/model_coeffs of github.com/google/lyra"
    ) from error
  try:
    _interpreter(model)
  except ValueError as error:
    raise UserError(f"{path} is not a TFLite model; download it again") from error
  return model


def _interpreter(model: bytes) -> Any:
  from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]: an optional package

  return Interpreter(model_content=model, num_threads=1)
