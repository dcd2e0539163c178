"""Means of metrics over many steps, and audio and images for TensorBoard."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.configs import Json, JsonDict

Metrics = Mapping[str, Float[Array, ""]]
Scalar = jax.Array | np.ndarray | np.float32

# Name of the metric that is 1 if the update of a training step was skipped, else 0.
SKIPPED = "skipped"
# Name of the metric that is the weight of a batch in means over batches.
WEIGHT = "weight"


class Audio(NamedTuple):
  """Audio for TensorBoard: float32 [clips, samples] in [-1, 1] at `sample_rate` Hz."""

  samples: np.ndarray | jax.Array
  sample_rate: int = 16000


class Image(NamedTuple):
  """Images for TensorBoard: float32 [images, height, width, 1 or 3] in [0, 1]."""

  pixels: np.ndarray | jax.Array


class Accumulator(NamedTuple):
  """Weighted sums of metrics, kept on the device.

  Attributes:
    sums: by metric, the weighted sum of the finite values. For SKIPPED, the number of skipped
      updates.
    weights: by metric, the sum of the weights of the finite values. For SKIPPED, the number of
      updates.
    skipped_in_a_row: number of skipped updates since the last successful update.
  """

  sums: Mapping[str, Scalar]
  weights: Mapping[str, Scalar]
  skipped_in_a_row: Scalar


def empty(names: Iterable[str]) -> Accumulator:
  """Returns an accumulator of zeros for the metrics in `names`, without WEIGHT."""
  zeros = {name: np.zeros((), np.float32) for name in sorted(names) if name != WEIGHT}
  return Accumulator(zeros, dict(zeros), np.zeros((), np.float32))


def accumulate(total: Accumulator, metrics: Mapping[str, Float[Array, ""] | float]) -> Accumulator:
  """Adds the metrics of one step to `total`; ignores values that are not finite."""
  weight = jnp.asarray(metrics.get(WEIGHT, 1.0), jnp.float32)
  sums, weights = {}, {}
  for name, total_sum in total.sums.items():
    value = jnp.asarray(metrics[name], jnp.float32)
    finite = jnp.isfinite(value)
    # The count of skipped updates does not depend on the weight of a batch.
    factor = jnp.float32(1.0) if name == SKIPPED else weight
    sums[name] = total_sum + jnp.where(finite, value, 0.0) * factor
    weights[name] = total.weights[name] + jnp.where(finite, factor, 0.0)
  skipped = jnp.asarray(metrics.get(SKIPPED, 0.0), jnp.float32)
  in_a_row = jnp.where(skipped > 0, total.skipped_in_a_row + 1, 0.0)
  return Accumulator(sums, weights, in_a_row)


def means(total: Accumulator) -> dict[str, float]:
  """Returns the weighted means as Python floats; omits metrics whose total weight is 0.

  The metric SKIPPED is replaced by "skipped_steps", the number of skipped updates.
  """
  sums, weights = jax.device_get((total.sums, total.weights))
  result = {n: float(sums[n] / weights[n]) for n in sums if weights[n] > 0 and n != SKIPPED}
  if SKIPPED in sums:
    result["skipped_steps"] = float(sums[SKIPPED])
  return result


def to_json(total: Accumulator) -> JsonDict:
  """Returns the accumulator as JSON values; `from_json` restores the exact float32 numbers."""
  host = jax.device_get(total)
  return {
    "sums": {n: float(v) for n, v in host.sums.items()},
    "weights": {n: float(v) for n, v in host.weights.items()},
    "skipped_in_a_row": float(host.skipped_in_a_row),
  }


def from_json(values: Json, names: Iterable[str]) -> Accumulator:
  """Returns the accumulator that `to_json` converted to `values`, for the metrics in `names`.

  The metrics in `names` and in `values` may differ, so that a run can be resumed with another
  version of this package. Metrics that are missing in `values` start at zero, and other metrics in
  `values` are dropped.
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
  """Returns a spectrogram image: log power with a range of 80 dB, low frequencies at the bottom.

  Args:
    waveform: the samples of a clip.
    sample_rate: sample rate in Hz.
    bands: number of frequency bands.

  Returns:
    Pixels in [0, 1]; 1 is the maximum of the clip.
  """
  window = max(sample_rate // 25, 2 * bands)
  hop = window // 4
  padded = np.pad(waveform, (0, window))
  frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
  power = np.abs(np.fft.rfft(frames * np.hanning(window), axis=-1)) ** 2
  # High bands are wider; at 16 kHz, the lower half of the image shows frequencies below 1 kHz.
  edges = np.geomspace(1, power.shape[1], bands + 1) - 1
  low = np.floor(edges[:-1]).astype(int)
  high = np.maximum(np.ceil(edges[1:]).astype(int), low + 1)
  banded = np.stack([power[:, a:b].mean(axis=1) for a, b in zip(low, high, strict=True)])
  decibels = 10 * np.log10(banded + 1e-10)
  level = (decibels - decibels.max()) / 80 + 1
  return np.clip(level[::-1], 0, 1).astype(np.float32)[..., None]
