"""Descriptions of TPU slices that need not be present, for compilation.

With `libtpu`, a machine without TPUs can compile programs for a slice of hundreds of chips, but it
cannot run these programs.
"""

import os
import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax

from audiolm_jax.core.errors import ConfigError, UserError

# Generations whose chips have two cores that act as one device.
_MEGACORE = ("v4", "v5p")


@runtime_checkable
class Device(Protocol):
  """A device of a TPU slice; JAX has no public type for such devices."""

  @property
  def device_kind(self) -> str: ...


class OutOfMemoryError(UserError):
  """Raised when a program needs more memory than a TPU chip has.

  Args:
    topology: name of the slice.
    error: the error of the compiler; the sizes in the message are read from its text.
  """

  def __init__(self, topology: str, error: Exception):
    text = str(error)
    found = re.search(r"\(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)", text)
    found = found or re.search(r"Used ([\d.]+[KMGT]) of ([\d.]+[KMGT])", text)
    needs = f": it needs {found[1]} of {found[2]}" if found else ""
    super().__init__(
      f"the step does not fit into the memory of a {topology} chip{needs}; use a smaller batch per "
      "chip, more fsdp or remat"
    )


def tpu_devices(topology: str, num_slices: int = 1) -> Sequence[Device]:
  """Returns the devices of a slice, or of several slices connected by the data centre's network.

  Args:
    topology: generation and shape, for example "v5e:4x4" or "v4:8x8x4".
    num_slices: number of such slices.

  Raises:
    ConfigError: the slice does not exist.
    UserError: `libtpu` is not installed.
  """
  # libtpu otherwise queries the machine for these values and logs errors if it has no TPU.
  for name, value in (
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),  # the lock of libtpu protects TPUs, and no TPU is used
  ):
    os.environ.setdefault(name, value)
  from jax.experimental import topologies

  generation = topology.partition(":")[0]
  options: dict[str, str | int] = (
    {"chip_config_name": "megacore"} if generation in _MEGACORE else {}
  )
  if num_slices > 1:
    options["num_slices"] = num_slices
  try:
    description = topologies.get_topology_desc(topology_name=topology, platform="tpu", **options)
  except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
    raise ConfigError(
      f"unknown TPU slice {topology!r} ({_first_line(error)}); give one such as v5e:4x4"
    ) from error
  except (ImportError, RuntimeError, OSError) as error:
    raise UserError(
      f"compiling for TPUs needs libtpu ({_first_line(error)}); install the extra: "
      'pip install ".[tpu]"'
    ) from error
  return description.devices


def _first_line(error: BaseException) -> str:
  return (str(error).strip().splitlines() or [type(error).__name__])[0]
