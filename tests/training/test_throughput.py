"""Rates of a run, and the utilisation of its devices."""

import pytest

from audiolm_jax.training.accelerators import peak_flops
from audiolm_jax.training.throughput import TIMINGS, Throughput


def rates(monkeypatch, device_kinds, **step):
  """Returns the rates after 8 steps of 0.5 s."""
  now = iter([10.0, 14.0])
  monkeypatch.setattr("audiolm_jax.training.throughput.time.monotonic", lambda: next(now))
  clock = Throughput(device_kinds)
  for _ in range(8):
    clock.step(waited=0.1, **step)
  return clock.read()


def test_rates_and_utilisation_are_those_of_all_devices(monkeypatch):
  found = rates(
    monkeypatch, ["TPU v5 lite"] * 4, flops=197e12, amounts={"tokens": 100, "audio_seconds": 5.0}
  )
  assert found == {
    "steps_per_second": pytest.approx(2.0),
    "data_wait_seconds": pytest.approx(0.1),
    "data_wait_share": pytest.approx(0.2),
    "tokens_per_second": pytest.approx(200),
    "audio_seconds_per_second": pytest.approx(10.0),
    "model_flops_per_second": pytest.approx(2 * 197e12),
    "mfu": pytest.approx(0.5),
  }
  assert set(found) <= TIMINGS


def test_utilisation_is_omitted_for_a_device_with_unknown_peak(monkeypatch):
  assert "mfu" not in rates(monkeypatch, ["cpu"], flops=1e9)
  assert "model_flops_per_second" not in rates(monkeypatch, ["TPU v4"])


@pytest.mark.parametrize(
  ("kind", "teraflops"),
  [
    ("TPU v4", 275),
    ("TPU v5 lite", 197),
    ("TPU v5p", 459),
    ("TPU v6 lite", 918),
    ("NVIDIA A100-SXM4-80GB", 312),
    ("NVIDIA A1000 Laptop GPU", None),
    ("NVIDIA L40S", 362),
    ("NVIDIA L40", None),
    ("NVIDIA H100 80GB HBM3", 989),
    ("NVIDIA H100 PCIe", 756),
    ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ("NVIDIA H200", 989),
    ("cpu", None),
  ],
)
def test_a_device_is_recognised_by_the_name_that_jax_gives_it(kind, teraflops):
  assert peak_flops(kind) == (teraflops and teraflops * 1e12)
