"""How fast a run goes, and what it waits for."""

import collections
import time
from collections.abc import Mapping, Sequence

import jax

from audiolm_jax.training.accelerators import peak_flops

# Rows of metrics that depend on the clock: the same run again gives others.
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
  """Rates over the steps since `restart`.

  Args:
    device_kinds: of all devices that train, as JAX names them.
  """

  def __init__(self, device_kinds: Sequence[str] | None = None):
    if device_kinds is None:
      device_kinds = [device.device_kind for device in jax.devices()]
    peaks = [peak_flops(kind) for kind in device_kinds]
    self._peak = None if None in peaks else sum(peaks)
    self.restart()

  def restart(self) -> None:
    """Counts from now."""
    self._began, self._steps, self._waited, self._flops = time.monotonic(), 0, 0.0, 0.0
    self._amounts: collections.Counter[str] = collections.Counter()

  def step(self, *, waited: float, flops: float = 0.0, amounts: Mapping[str, float] = {}) -> None:
    """One more step.

    Args:
      waited: seconds that it waited for its batch.
      flops: what the model needs by formula, on all devices; 0 where no formula is known.
      amounts: what the batches of all processes hold, such as {"tokens": 4096}.
    """
    self._steps += 1
    self._waited += waited
    self._flops += flops
    self._amounts.update(amounts)

  def read(self) -> dict[str, float]:
    """The figures since `restart`.

    Returns:
      `steps_per_second`; `<amount>_per_second`; `data_wait_seconds` per step and
      `data_wait_share` of the time; where formulas are known `model_flops_per_second`, and where
      the devices are, too, `mfu`, the share of what they could do at most.
    """
    elapsed = max(time.monotonic() - self._began, 1e-9)
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
