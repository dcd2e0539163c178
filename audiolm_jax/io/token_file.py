"""Token files: the tokens of one clip, which `encode` writes and `decode` reads."""

import dataclasses
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from audiolm_jax.core import configs
from audiolm_jax.core.errors import DataError
from audiolm_jax.core.streams import CODES, SEMANTIC, Record, Stream
from audiolm_jax.io.files import atomic_write

FORMAT_VERSION = 2
_ARRAY = "stream:"


@dataclasses.dataclass(frozen=True)
class TokenFile:
  """The tokens of a clip and the bundle that they belong to.

  Attributes:
    tokens: by the keys of their streams, including codes.
    streams: descriptions of the tokens. A stream without a rate is text or has collapsed repeats.
    sample_rate: of the audio that the codes decode to, in Hz.
    bundle: name of the bundle whose tokenizers encoded the clip.
    token_hash: of these tokenizers.
  """

  tokens: Record
  streams: Mapping[str, Stream]
  sample_rate: int
  bundle: str
  token_hash: str

  @property
  def codes(self) -> Int[np.ndarray, "frames quantizers"]:
    """The acoustic codes, which a codec decodes."""
    return self.tokens[CODES]


def save_tokens(path: str | os.PathLike[str], tokens: TokenFile) -> None:
  """Writes a compressed npz file atomically.

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
  """Reads a file of `save_tokens`, of the current format or of format 1.

  Raises:
    DataError: the file is missing, damaged, or not a token file.
  """
  path = Path(path)
  if not path.is_file():
    kind = "is a folder" if path.is_dir() else "does not exist"
    raise DataError(f"{path} {kind}; give the tokens.npz that audiolm_jax.encode wrote")
  try:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
      if "token_hash" not in stored:
        raise DataError(f"{path} contains no tokens; give the tokens.npz that encode wrote")
      version = int(stored["format_version"])
      if version not in (1, FORMAT_VERSION):
        raise DataError(
          f"{path} has format version {version}, this program reads 1 to {FORMAT_VERSION}; "
          "encode the audio again"
        )
      arrays, streams = (_format_1 if version == 1 else _format_2)(stored)
      tokens = TokenFile(
        tokens=arrays,
        streams=streams,
        sample_rate=int(stored["sample_rate"]),
        bundle=str(stored["bundle"]),
        token_hash=str(stored["token_hash"]),
      )
  except DataError:
    raise
  except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
    raise DataError(
      f"{path} is damaged or not the tokens.npz that audiolm_jax.encode writes; "
      "encode the audio again"
    ) from error
  codes = tokens.tokens.get(CODES, np.zeros(0))
  if codes.ndim != 2 or codes.dtype.kind not in "iu" or not codes.size:
    raise DataError(f"{path} has codes of shape {codes.shape}, not [frames, quantizers]")
  return tokens


def _format_2(stored: Mapping[str, np.ndarray]) -> tuple[Record, dict[str, Stream]]:
  plain = json.loads(str(stored["streams"]))
  streams = {key: configs.from_dict(Stream, values) for key, values in plain.items()}
  return {key: stored[_ARRAY + key] for key in streams}, streams


def _format_1(stored: Mapping[str, np.ndarray]) -> tuple[Record, dict[str, Stream]]:
  """Reads two streams. Their sizes are not stored, so each is its largest token plus one."""
  semantic, codes = stored["semantic"], stored["codes"]
  rate = float(stored["semantic_rate"]) or None  # 0: repeats are collapsed
  streams = (
    Stream(SEMANTIC, int(semantic.max(initial=0)) + 1, rate),
    Stream(CODES, int(codes.max(initial=0)) + 1, float(stored["frame_rate"]), codes.shape[-1]),
  )
  return {SEMANTIC: semantic, CODES: codes}, {stream.key: stream for stream in streams}
