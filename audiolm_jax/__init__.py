"""AudioLM in JAX: a language model of audio, which continues a prompt of a few seconds.

For example:

    bundle = audiolm_jax.load_bundle("speech")
    tokens = bundle.encode(waveform, sample_rate)
    result = bundle.continue_audio(waveform, sample_rate, duration=7.0, seed=0)
"""

import importlib
from typing import TYPE_CHECKING

from audiolm_jax.core.version import __version__

if TYPE_CHECKING:
  from audiolm_jax.bundles import (
    AudioStream,
    Bundle,
    Continuation,
    list_bundles,
    load_bundle,
    save_bundle,
  )
  from audiolm_jax.core.errors import UserError
  from audiolm_jax.io.encoded import Encoded
  from audiolm_jax.io.provenance import read_provenance

__all__ = [
  "AudioStream",
  "Bundle",
  "Continuation",
  "Encoded",
  "UserError",
  "__version__",
  "list_bundles",
  "load_bundle",
  "read_provenance",
  "save_bundle",
]

# Imported on first use, so that `import audiolm_jax` loads neither JAX nor NumPy.
_MODULES = {
  "AudioStream": "audiolm_jax.bundles",
  "Bundle": "audiolm_jax.bundles",
  "Continuation": "audiolm_jax.bundles",
  "Encoded": "audiolm_jax.io.encoded",
  "UserError": "audiolm_jax.core.errors",
  "list_bundles": "audiolm_jax.bundles",
  "load_bundle": "audiolm_jax.bundles",
  "read_provenance": "audiolm_jax.io.provenance",
  "save_bundle": "audiolm_jax.bundles",
}


def __getattr__(name: str) -> object:
  if name not in _MODULES:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
  return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
