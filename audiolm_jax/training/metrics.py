"""Means of metrics over many steps, and sentences when one of them is off."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Metrics = Mapping[str, Float[Array, ""]]

# What a trainable calls the metric that is 1 when its update was skipped.
SKIPPED = "skipped"
# What an evaluation step calls the weight of its batch.
WEIGHT = "weight"


class Audio(NamedTuple):
  """Clips to listen to: float32 [clips, samples] in [-1, 1] at `sample_rate` Hz."""

  samples: np.ndarray | jax.Array
  sample_rate: int = 16000


class Image(NamedTuple):
  """Pictures to look at: float32 [images, height, width, 1 or 3] in [0, 1]."""

  pixels: np.ndarray | jax.Array


class Accumulator(NamedTuple):
  """Weighted sums of metrics, kept on the device.

  Attributes:
    sums: weighted sum of each metric's finite values.
    weights: the weights that went into each sum.
    skipped_in_a_row: skipped updates since the last one made.
  """

  sums: dict[str, Float[Array, ""]]
  weights: dict[str, Float[Array, ""]]
  skipped_in_a_row: Float[Array, ""]


def empty(names: Any) -> Accumulator:
  """An accumulator for the metrics called `names`."""
  zeros = {name: np.zeros((), np.float32) for name in sorted(names) if name != WEIGHT}
  return Accumulator(zeros, dict(zeros), np.zeros((), np.float32))


def accumulate(total: Accumulator, metrics: Metrics) -> Accumulator:
  """`total` with one step's metrics; a value that is not finite counts for nothing."""
  weight = jnp.asarray(metrics.get(WEIGHT, 1.0), jnp.float32)
  sums, weights = {}, {}
  for name, total_sum in total.sums.items():
    value = jnp.asarray(metrics[name], jnp.float32)
    finite = jnp.isfinite(value)
    sums[name] = total_sum + jnp.where(finite, value, 0.0) * weight
    weights[name] = total.weights[name] + jnp.where(finite, weight, 0.0)
  skipped = jnp.asarray(metrics.get(SKIPPED, 0.0), jnp.float32)
  in_a_row = jnp.where(skipped > 0, total.skipped_in_a_row + 1, 0.0)
  return Accumulator(sums, weights, in_a_row)


def means(total: Accumulator) -> dict[str, float]:
  """The weighted means, on the host; a metric never finite is left out."""
  sums, weights = jax.device_get((total.sums, total.weights))
  result = {n: float(sums[n] / weights[n]) for n in sums if weights[n] > 0 and n != SKIPPED}
  if SKIPPED in sums:
    result["skipped_steps"] = float(sums[SKIPPED])
  return result


def to_json(total: Accumulator) -> dict[str, Any]:
  """The accumulator as JSON; `from_json` gives the same float32 numbers back."""
  host = jax.device_get(total)
  return {
    "sums": {n: float(v) for n, v in host.sums.items()},
    "weights": {n: float(v) for n, v in host.weights.items()},
    "skipped_in_a_row": float(host.skipped_in_a_row),
  }


def from_json(values: Mapping[str, Any], names: Any) -> Accumulator:
  """The accumulator that `to_json` wrote, for the metrics called `names`.

  A metric that was not there then starts at zero, and one that is no more is dropped: a run goes on
  with a version that measures something else.
  """
  fresh = empty(names)
  return Accumulator(
    {n: np.float32(values["sums"].get(n, 0.0)) for n in fresh.sums},
    {n: np.float32(values["weights"].get(n, 0.0)) for n in fresh.weights},
    np.float32(values["skipped_in_a_row"]),
  )


def spectrogram_image(
  waveform: Float[np.ndarray, "samples"], sample_rate: int, *, bands: int = 128
) -> Float[np.ndarray, "bands frames 1"]:
  """A picture of a clip: log magnitude over 80 dB, low frequencies at the bottom."""
  window = max(sample_rate // 25, 2 * bands)
  hop = window // 4
  padded = np.pad(waveform, (0, window))
  frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
  power = np.abs(np.fft.rfft(frames * np.hanning(window), axis=-1)) ** 2
  # Bands as wide as their place: half the picture shows what lies below 1 kHz at 16 kHz.
  edges = np.geomspace(1, power.shape[1], bands + 1) - 1
  low = np.floor(edges[:-1]).astype(int)
  high = np.maximum(np.ceil(edges[1:]).astype(int), low + 1)
  banded = np.stack([power[:, a:b].mean(axis=1) for a, b in zip(low, high, strict=True)])
  decibels = 10 * np.log10(banded + 1e-10)
  level = (decibels - decibels.max()) / 80 + 1
  return np.clip(level[::-1], 0, 1).astype(np.float32)[..., None]
