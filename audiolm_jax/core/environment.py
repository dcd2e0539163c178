"""Checks the environment variables that JAX reads, before a command computes anything."""

import os

from audiolm_jax.core.errors import UserError

_FALSE = ("", "0", "f", "false", "n", "no", "off")
_TRUE = ("1", "t", "true", "y", "yes", "on")
# Variables that change the results of JAX, with their only accepted values.
_FIXED = {"JAX_ENABLE_X64": False, "JAX_THREEFRY_PARTITIONABLE": True}
_RANDOM = ("threefry2x32", "rbg", "unsafe_rbg")


class SettingError(UserError):
  """Raised when JAX cannot use the settings in the environment variables.

  Attributes:
    reason: description of the error.
    fix: instruction to fix the error.
  """

  def __init__(self, reason: str, fix: str):
    super().__init__(f"{reason}; {fix}")
    self.reason, self.fix = reason, fix


def check() -> None:
  """Checks the environment variables that JAX reads.

  JAX is imported only if JAX_PLATFORMS requests devices other than the CPU.

  Raises:
    SettingError: a variable would change the results of JAX, JAX does not know the random number
      generator in JAX_DEFAULT_PRNG_IMPL, or JAX cannot use the devices in JAX_PLATFORMS.
    ImportError: JAX must be imported and is not installed.
  """
  for name, wanted in _FIXED.items():
    value = os.environ.get(name, _TRUE[0] if wanted else "").lower()
    if value not in (_TRUE if wanted else _FALSE):
      raise SettingError(
        f"{name}={os.environ[name]}, with which the results would differ from those of others",
        f"unset {name}",
      )
  random = os.environ.get("JAX_DEFAULT_PRNG_IMPL", _RANDOM[0])
  if random not in _RANDOM:
    raise SettingError(
      f"JAX_DEFAULT_PRNG_IMPL={random} is unknown to JAX", "unset JAX_DEFAULT_PRNG_IMPL"
    )
  platforms = os.environ.get("JAX_PLATFORMS", "")
  if platforms in ("", "cpu"):
    return
  import jax

  try:
    jax.devices()  # pyright: ignore[reportUnknownMemberType]: JAX leaves out its types
  except Exception as error:  # the exception types differ between backends
    reason = " ".join(str(error).split()) or "JAX finds no such device"
    raise SettingError(
      f"JAX_PLATFORMS={platforms}: {reason[:200]}",
      "set JAX_PLATFORMS=cpu to compute without an accelerator, or install its driver and plugin",
    ) from error
