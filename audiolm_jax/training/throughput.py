"""Measures the speed of a run, and the time in which the run waits for data."""

import collections
import time
from collections.abc import Mapping, Sequence

import jax

from audiolm_jax.training.accelerators import peak_flops

# Names of metrics that are measured with a clock and therefore differ if a run is repeated.
TIMINGS = frozenset(
  {
    "steps_per_second",
    "tokens_per_second",
    "audio_seconds_per_second",
    "model_flops_per_second",
    "mfu",
    "data_wait_seconds",
    "data_wait_share",
    "wall_seconds",
  }
)


class Throughput:
  """Measures mean rates over the steps since the last call of `restart`.

  Args:
    device_kinds: JAX's names of the devices that train, one per device; None for the devices of
      `jax.devices()`.
  """

  def __init__(self, device_kinds: Sequence[str] | None = None):
    if device_kinds is None:
      device_kinds = [device.device_kind for device in jax.devices()]
    peaks = [peak for kind in device_kinds if (peak := peak_flops(kind)) is not None]
    self._peak = sum(peaks) if len(peaks) == len(device_kinds) else None
    self.restart()

  def restart(self) -> None:
    """Resets all counters and the clock."""
    self._started, self._steps, self._waited, self._flops = time.monotonic(), 0, 0.0, 0.0
    self._amounts: collections.Counter[str] = collections.Counter()

  def step(self, *, waited: float, flops: float = 0.0, amounts: Mapping[str, float] = {}) -> None:
    """Counts one step.

    Args:
      waited: seconds in which the step waited for the batch.
      flops: floating-point operations of the model on all devices, from a formula; 0 if unknown.
      amounts: amounts of data in the batches of all processes, such as {"tokens": 4096}.
    """
    self._steps += 1
    self._waited += waited
    self._flops += flops
    self._amounts.update(amounts)

  def read(self) -> dict[str, float]:
    """Returns the mean rates since the last call of `restart`.

    Returns:
      `steps_per_second`; `<amount>_per_second` for each amount; `data_wait_seconds`, the waiting
      time per step; `data_wait_share`, the waiting time as a share of the elapsed time;
      `model_flops_per_second`, if the operations are known; and `mfu` (model FLOPs utilization),
      the share of the peak FLOP/s of the devices, if the peak is also known.
    """
    elapsed = max(time.monotonic() - self._started, 1e-9)
    rates = {
      "steps_per_second": self._steps / elapsed,
      "data_wait_seconds": self._waited / max(self._steps, 1),
      "data_wait_share": self._waited / elapsed,
    }
    rates |= {f"{name}_per_second": total / elapsed for name, total in self._amounts.items()}
    if self._flops:
      rates["model_flops_per_second"] = self._flops / elapsed
      if self._peak:
        rates["mfu"] = self._flops / elapsed / self._peak
    return rates
