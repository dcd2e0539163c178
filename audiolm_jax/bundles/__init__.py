"""Bundles: folders with trained models that are ready to use. The package contains some bundles."""

from typing import TYPE_CHECKING

from audiolm_jax.bundles.bundle import Bundle, token_hash
from audiolm_jax.bundles.folder import load_bundle, save_bundle
from audiolm_jax.bundles.manifest import list_bundles

if TYPE_CHECKING:
  from audiolm_jax.bundles.audio_stream import AudioStream
  from audiolm_jax.bundles.continuation import Continuation

__all__ = [
  "AudioStream",
  "Bundle",
  "Continuation",
  "list_bundles",
  "load_bundle",
  "save_bundle",
  "token_hash",
]


def __getattr__(name: str) -> object:
  """Returns `AudioStream` or `Continuation`; imports sampling only when one of them is used."""
  if name == "AudioStream":
    from audiolm_jax.bundles.audio_stream import AudioStream

    return AudioStream
  if name == "Continuation":
    from audiolm_jax.bundles.continuation import Continuation

    return Continuation
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
