"""How fast accelerators are by their makers' word, and how much they hold."""

import re

from audiolm_jax.core.errors import ConfigError

# bfloat16 matrix products with float32 sums, dense (no structured sparsity), in FLOP/s for what JAX
# calls one device. Sources: "Peak compute per chip" of docs.cloud.google.com/tpu/docs/v2 to v6e (v2
# and v3: half of it, a device is one of two cores); NVIDIA's data sheets of each product, whose
# figures "with sparsity" are halved.
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
  """Peak bfloat16 FLOP/s of a device, or None where it is not known.

  Args:
    device_kind: as JAX names it; the longest name in `PEAK_FLOPS` that it begins with counts, so
      that "NVIDIA A100-SXM4-80GB" is an A100. A slice of a GPU (MIG) is not known.
  """
  if re.search(r"\bMIG\b", device_kind):
    return None
  names = [name for name in PEAK_FLOPS if re.match(rf"{re.escape(name)}(?!\w)", device_kind)]
  return PEAK_FLOPS[max(names, key=len)] if names else None


def tpu_memory_bytes(device_kind: str) -> int:
  """Memory of a TPU chip in bytes.

  Raises:
    ConfigError: of a kind that is not in the table.
  """
  if device_kind not in TPU_MEMORY_GIB:
    raise ConfigError(f"the memory of a {device_kind!r} is not known here")
  return TPU_MEMORY_GIB[device_kind] << 30
