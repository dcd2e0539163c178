"""AudioLM in JAX: hear a few seconds of audio, continue it."""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from audiolm_jax.api import Continuation, Encoded, continue_audio, decode, encode, stream_audio
  from audiolm_jax.bundles import Bundle, list_bundles, load_bundle, save_bundle
  from audiolm_jax.errors import UserError
  from audiolm_jax.provenance import read_provenance

__version__ = "0.1.0"
__all__ = [
  "Bundle",
  "Continuation",
  "Encoded",
  "UserError",
  "continue_audio",
  "decode",
  "encode",
  "list_bundles",
  "load_bundle",
  "read_provenance",
  "save_bundle",
  "stream_audio",
]

_HOMES = {
  "audiolm_jax.api": (
    "Continuation",
    "Encoded",
    "continue_audio",
    "decode",
    "encode",
    "stream_audio",
  ),
  "audiolm_jax.bundles": ("Bundle", "list_bundles", "load_bundle", "save_bundle"),
  "audiolm_jax.errors": ("UserError",),
  "audiolm_jax.provenance": ("read_provenance",),
}


def _export(home: str, name: str) -> property:
  def read(_: types.ModuleType) -> Any:
    return getattr(importlib.import_module(home), name)

  def ignore(_: types.ModuleType, __: Any) -> None:
    pass

  return property(read, ignore)


class _Package(types.ModuleType):
  """Loads what it exports when it is first asked for.

  `encode` and `decode` are functions here and command lines as submodules. Python sets a submodule
  as an attribute of its package on import; these properties do not let it hide the functions.
  """

  def __dir__(self) -> list[str]:
    return sorted({*super().__dir__(), *__all__})


for _home, _names in _HOMES.items():
  for _name in _names:
    setattr(_Package, _name, _export(_home, _name))
sys.modules[__name__].__class__ = _Package

if sys.argv[:1] == ["-m"]:  # one of the command lines, which import absl before all else
  from audiolm_jax.errors import say_missing_package

  sys.excepthook = say_missing_package
