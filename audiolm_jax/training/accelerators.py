"""Peak FLOP/s and memory of accelerators, as specified by their vendors."""

import re

from audiolm_jax.core.errors import ConfigError

# FLOP/s of bfloat16 matrix products with float32 accumulation, without structured sparsity, for one
# JAX device. Sources: "Peak compute per chip" of docs.cloud.google.com/tpu/docs/v2 to v6e, halved
# for v2 and v3, because a device is one of the two cores of a chip; NVIDIA's data sheet of each
# product, halved if the value is "with sparsity".
PEAK_FLOPS = {
  "TPU v2": 22.5e12,
  "TPU v3": 61.5e12,
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5e": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
  "TPU v6e": 918e12,
  "NVIDIA A10G": 70e12,
  "NVIDIA A100": 312e12,
  "NVIDIA L4": 121e12,
  "NVIDIA L40S": 362e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H100 NVL": 835e12,
  "NVIDIA H200": 989e12,
  "NVIDIA H200 NVL": 835e12,
  "NVIDIA GH200": 989e12,
}

# GiB of memory of a TPU chip. Source: the same pages of docs.cloud.google.com/tpu/docs.
TPU_MEMORY_GIB = {"TPU v4": 32, "TPU v5 lite": 16, "TPU v5": 95, "TPU v6 lite": 32}


def peak_flops(device_kind: str) -> float | None:
  """Returns the peak bfloat16 FLOP/s of a device, or None if it is unknown.

  Args:
    device_kind: JAX's name of the device, which may have a suffix after a name in `PEAK_FLOPS`:
      "NVIDIA A100-SXM4-80GB" is an A100. The longest matching name is used. The FLOP/s of slices of
      a GPU (MIG) are unknown.
  """
  if re.search(r"\bMIG\b", device_kind):
    return None
  names = [name for name in PEAK_FLOPS if re.match(rf"{re.escape(name)}(?!\w)", device_kind)]
  return PEAK_FLOPS[max(names, key=len)] if names else None


def tpu_memory_bytes(device_kind: str) -> int:
  """Returns the memory of a TPU chip in bytes.

  Args:
    device_kind: JAX's name of the device, such as "TPU v4".

  Raises:
    ConfigError: `device_kind` is not in `TPU_MEMORY_GIB`.
  """
  if device_kind not in TPU_MEMORY_GIB:
    known = ", ".join(TPU_MEMORY_GIB)
    raise ConfigError(f"the memory of {device_kind!r} is unknown; supported are {known}")
  return TPU_MEMORY_GIB[device_kind] << 30
