"""One clip's tokens as a file: what `encode` writes and `decode` reads."""

import dataclasses
import os
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Int

from audiolm_jax.core.errors import DataError
from audiolm_jax.io.files import atomic_write

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class TokenFile:
  """The tokens of a clip and whose they are.

  Attributes:
    semantic: [steps] ids; repeats may have been collapsed, see `semantic_rate`.
    codes: [frames, quantizers], each in [0, codebook_size).
    sample_rate: Hz, of the sound that the codes decode to.
    frame_rate: frames of `codes` per second.
    semantic_rate: ids of `semantic` per second; 0 where their repeats are collapsed.
    bundle: name of the bundle whose tokenizers made them.
    token_hash: of those tokenizers.
  """

  semantic: Int[np.ndarray, " steps"]
  codes: Int[np.ndarray, "frames quantizers"]
  sample_rate: int
  frame_rate: float
  semantic_rate: float
  bundle: str
  token_hash: str


def save_tokens(path: str | os.PathLike[str], tokens: TokenFile) -> None:
  """Writes a compressed npz file, whole or not at all.

  Raises:
    UserError: the place cannot be written.
  """
  values = {f.name: getattr(tokens, f.name) for f in dataclasses.fields(tokens)}
  values["semantic"] = np.asarray(tokens.semantic, np.int32)
  values["codes"] = np.asarray(tokens.codes, np.int32)
  with atomic_write(path) as file:
    np.savez_compressed(file, format_version=FORMAT_VERSION, **values)


def load_tokens(path: str | os.PathLike[str]) -> TokenFile:
  """Reads what `save_tokens` wrote.

  Raises:
    DataError: missing, damaged, or not a file of tokens.
  """
  path = Path(path)
  if not path.is_file():
    kind = "is a folder" if path.is_dir() else "does not exist"
    raise DataError(f"{path} {kind}; give the tokens.npz that audiolm_jax.encode wrote")
  try:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
      if "codes" not in stored or "token_hash" not in stored:
        raise DataError(f"{path} holds no tokens of audiolm_jax.encode")
      if int(stored["format_version"]) != FORMAT_VERSION:
        raise DataError(
          f"{path} has format version {stored['format_version']}, this program reads "
          f"{FORMAT_VERSION}; encode the sound again"
        )
      tokens = TokenFile(
        semantic=stored["semantic"],
        codes=stored["codes"],
        sample_rate=int(stored["sample_rate"]),
        frame_rate=float(stored["frame_rate"]),
        semantic_rate=float(stored["semantic_rate"]),
        bundle=str(stored["bundle"]),
        token_hash=str(stored["token_hash"]),
      )
  except DataError:
    raise
  except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
    raise DataError(
      f"{path} is damaged or not the tokens.npz that audiolm_jax.encode writes; "
      "encode the sound again"
    ) from error
  if tokens.codes.ndim != 2 or tokens.codes.dtype.kind not in "iu" or not tokens.codes.size:
    raise DataError(f"{path} has codes of shape {tokens.codes.shape}, not [frames, quantizers]")
  return tokens
