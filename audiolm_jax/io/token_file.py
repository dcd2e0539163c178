"""Token files: the tokens of one clip, which `encode` writes and `decode` reads."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from audiolm_jax.core import configs, plain_json
from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.core.ranges import SampleRate
from audiolm_jax.core.streams import CODES, SEMANTIC, Record, Stream
from audiolm_jax.io.files import atomic_write
from audiolm_jax.io.npz import Arrays

FORMAT_VERSION = 2
_ARRAY = "stream:"
_LARGEST_DESCRIPTION = 1 << 16  # bytes


@dataclasses.dataclass(frozen=True)
class TokenFile:
  """The tokens of a clip and the bundle that they belong to.

  Attributes:
    tokens: the tokens by stream key; they always include codes.
    streams: the description of each stream by key. A stream without a rate is text or has collapsed
      repeats.
    sample_rate: sample rate of the audio that is decoded from the codes, in Hz.
    bundle: name of the bundle whose tokenizers encoded the clip.
    token_hash: hash of these tokenizers.
  """

  tokens: Record
  streams: Mapping[str, Stream]
  sample_rate: int
  bundle: str
  token_hash: str

  @property
  def codes(self) -> Int[np.ndarray, "frames quantizers"]:
    """The acoustic codes, from which a codec decodes audio."""
    return self.tokens[CODES]


def save_tokens(path: str | os.PathLike[str], tokens: TokenFile) -> None:
  """Writes tokens atomically to a compressed npz file.

  Raises:
    UserError: the file cannot be written.
  """
  streams = {key: configs.to_dict(stream) for key, stream in tokens.streams.items()}
  arrays: dict[str, Any] = {
    _ARRAY + key: np.asarray(value, np.int32) for key, value in tokens.tokens.items()
  }
  with atomic_write(path) as file:
    np.savez_compressed(
      file,
      format_version=FORMAT_VERSION,
      streams=json.dumps(streams),
      sample_rate=tokens.sample_rate,
      bundle=tokens.bundle,
      token_hash=tokens.token_hash,
      **arrays,
    )


def load_tokens(path: str | os.PathLike[str]) -> TokenFile:
  """Reads a file that `save_tokens` wrote in the current format or in format 1.

  Raises:
    DataError: the file is missing, damaged, not a token file, or has an unknown format version.
  """
  path = Path(path)
  if not path.is_file():
    other = "is a folder" if path.is_dir() else "is not a regular file"
    kind = other if path.exists() else "does not exist"
    raise DataError(f"{path} {kind}; give the tokens.npz that audiolm_jax.encode wrote")
  try:
    with open(path, "rb") as file:
      stored = Arrays(file)
      if "token_hash" not in stored:
        raise DataError(f"{path} contains no tokens; give the tokens.npz that encode wrote")
      version = stored.number("format_version")
      if version not in (1, FORMAT_VERSION):
        raise DataError(
          f"{path} has format version {version}, this program reads 1 to {FORMAT_VERSION}; "
          "encode the audio again"
        )
      arrays, streams = (_format_1 if version == 1 else _format_2)(stored)
      if not arrays[CODES].size:
        raise ValueError(f"{CODES} is empty")
      return TokenFile(
        tokens=arrays,
        streams=streams,
        sample_rate=configs.checked(SampleRate, stored.number("sample_rate"), "the sample rate"),
        bundle=configs.checked(str, stored.text("bundle"), "the bundle"),
        token_hash=configs.checked(str, stored.text("token_hash"), "the token hash"),
      )
  except (OSError, ConfigError, KeyError, ValueError) as error:
    if isinstance(error, DataError):
      raise
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    raise DataError(
      f"{path} is damaged or not the tokens.npz that audiolm_jax.encode writes ({reason}); "
      "encode the audio again"
    ) from error


def _format_2(stored: Arrays) -> tuple[Record, dict[str, Stream]]:
  plain = plain_json.parse(stored.text("streams"), _LARGEST_DESCRIPTION)
  streams = configs.checked(Mapping[str, Stream], plain, "the streams")
  for key, stream in streams.items():
    if key != stream.key:
      raise ValueError(f"the stream {configs.shown(key)} is described as {stream.key!r}")
  return {key: _tokens(stored, _ARRAY + key, stream) for key, stream in streams.items()}, streams


def _format_1(stored: Arrays) -> tuple[Record, dict[str, Stream]]:
  """Reads the semantic tokens and the codes of a file in format 1.

  Format 1 does not store vocabulary sizes; the size of each stream is its largest token plus 1.
  """
  semantic, codes = stored["semantic"], stored["codes"]
  rate = stored.number("semantic_rate") or None  # 0 if repeats are collapsed
  levels = codes.shape[-1] if codes.ndim == 2 else 1
  described = (
    {"name": SEMANTIC, "size": int(semantic.max(initial=0)) + 1, "rate": rate},
    {
      "name": CODES,
      "size": int(codes.max(initial=0)) + 1,
      "rate": stored.number("frame_rate"),
      "levels": levels,
    },
  )
  streams = {s.key: s for s in (configs.from_dict(Stream, values) for values in described)}
  return {key: _tokens(stored, key, stream) for key, stream in streams.items()}, streams


def _tokens(stored: Arrays, name: str, stream: Stream) -> np.ndarray:
  """Returns the tokens of a stream.

  Raises:
    ValueError: the tokens do not have the type and shape of the stream, or are not in its
      vocabulary.
  """
  tokens, axes = stored[name], "[frames, quantizers]" if stream.levels else "[steps]"
  if tokens.dtype.kind not in "iu" or tokens.ndim != 1 + bool(stream.levels):
    raise ValueError(f"{name} is {tokens.dtype} of shape {tokens.shape}, not integers {axes}")
  if stream.levels and not 1 <= tokens.shape[1] <= stream.end_level:
    raise ValueError(f"{name} has {tokens.shape[1]} levels, not 1 to {stream.end_level}")
  if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < stream.size:
    raise ValueError(f"{name} ranges over {tokens.min()}..{tokens.max()}, not 0..{stream.size - 1}")
  return tokens
