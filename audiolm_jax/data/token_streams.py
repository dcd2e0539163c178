"""Describes the token streams of a token store or of a bundle's tokenizers; reads no tokens."""

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from audiolm_jax.core.streams import CODES, SEMANTIC, Stream
from audiolm_jax.data import token_store
from audiolm_jax.data.tokenization import streams_of
from audiolm_jax.io import storage

if TYPE_CHECKING:
  from audiolm_jax.bundles.bundle import Bundle


def read_streams(
  source: str | os.PathLike[str] | None = None, bundle: str | os.PathLike[str] | None = None
) -> dict[str, Stream]:
  """Returns the streams of the tokens on which a stage is trained, by key.

  Args:
    source: folder of a token store; other data, such as a folder of audio, have no streams.
    bundle: name or folder of a bundle; its tokenizers define the streams that `source` lacks.

  Returns:
    Vocabulary, rate and levels of each stream; empty if there is no token store and no bundle.

  Raises:
    BundleError: the bundle cannot be read.
    DataError: the token store cannot be read; or it lacks semantic tokens or codes, and its tokens
      are not from the tokenizers of the bundle.
  """
  found: dict[str, Stream] = {}
  info = None
  if source is not None and is_token_store(source):
    info = token_store.read_info(source)
    found = info.streams
  if bundle is not None and not {SEMANTIC, CODES} <= found.keys():
    tokenizers = load_tokenizers(bundle)
    if info is not None:
      token_store.check_hash(info, tokenizers.token_hash, os.fspath(source or ""))
    found = streams_of(tokenizers) | found
  return found


def is_token_store(source: str | os.PathLike[str]) -> bool:
  """Returns whether a folder contains a token store."""
  return storage.exists(storage.join(source, token_store.STORE_FILE))


def load_tokenizers(bundle: str | os.PathLike[str]) -> "Bundle":
  """Returns a bundle without its stages; the last two bundles are kept in memory.

  Raises:
    BundleError: the bundle cannot be read.
  """
  written = Path(bundle, "bundle.json")
  return _load(str(bundle), written.stat().st_mtime if written.exists() else None)


@functools.lru_cache(maxsize=2)
def _load(name_or_dir: str, written: float | None) -> "Bundle":
  del written  # part of the cache key, so that a new export is loaded again
  from audiolm_jax import bundles

  return bundles.load_bundle(name_or_dir, stages=())
