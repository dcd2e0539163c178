"""Checks the waveforms that callers pass, and averages their channels."""

from typing import SupportsIndex

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from audiolm_jax.core import arguments, ranges
from audiolm_jax.core.configs import shown
from audiolm_jax.core.errors import AudioError, UserError
from audiolm_jax.io import audio

# A second axis of at most this length is an axis of channels: recordings have no more channels, and
# clips have more samples.
_MOST_CHANNELS = 64
_LAYOUT = "an array [samples], or [batch, samples] for several clips of one length"


def check_rate(sample_rate: object, name: str = "sample_rate") -> int:
  """Returns a sample rate of any number type as an int.

  Raises:
    AudioError: the rate is not a whole number of Hz in the supported range.
  """
  try:
    return arguments.whole(sample_rate, name, ranges.SAMPLE_RATES)
  except UserError as error:
    raise AudioError(f"{error}, in Hz") from error


def check(
  samples: ArrayLike,
  sample_rate: int,
  *,
  channel_axis: SupportsIndex | None = None,
  seconds: float | None = None,
  most_axes: int = 2,
  name: str = "the waveform",
) -> Float[np.ndarray, "*batch samples"]:
  """Returns the waveform that a caller passes, as floats of one channel.

  Args:
    samples: floats in [-1, 1], or integers that use the whole range of their type. The shape is
      [samples] or [batch, samples], with an additional axis of channels if `channel_axis` is given.
    sample_rate: sample rate in Hz, as returned by `check_rate`.
    channel_axis: axis of the channels, which are averaged, such as -1 for arrays
      [samples, channels] from soundfile; None if the samples have no axis of channels.
    seconds: maximum duration to use from the beginning; None for the whole waveform.
    most_axes: maximum number of axes, not counting the axis of channels: 2, or 1 if only a single
      clip is accepted.
    name: name of the waveform in error messages.

  Returns:
    Floats in [-1, 1] as [samples] or [batch, samples].

  Raises:
    AudioError: the samples are not numbers, empty, not finite, far outside [-1, 1], or in a layout
      that is not supported.
    UserError: `channel_axis` is not an axis of the samples.
  """
  wanted = _LAYOUT if most_axes == 2 else "one clip, an array [samples]"
  if isinstance(samples, str | bytes) or hasattr(samples, "__fspath__"):
    raise AudioError(f"{name} is the name {shown(samples)}; read the file and give its samples")
  try:
    found = arguments.array(samples, name, wanted)
  except UserError as error:
    raise AudioError(str(error)) from error
  if channel_axis is not None:
    found = _channels_last(found, channel_axis, name)
  axes = found.ndim - (channel_axis is not None)
  if not 1 <= axes <= most_axes:
    raise AudioError(f"{name} has shape {np.shape(samples)}; give {wanted}{_hint(found)}")
  if channel_axis is None and _has_channels(found):
    raise AudioError(
      f"{name} has shape {found.shape}, that is {found.shape[0]} clips of {found.shape[1]} "
      f"samples{_hint(found)}"
    )
  if not found.size:
    raise AudioError(f"{name} has shape {found.shape} and holds no samples; give {wanted}")
  if seconds is not None:
    time = found.ndim - 1 - (channel_axis is not None)
    count = max(1, round(seconds * sample_rate))
    found = found[(*[slice(None)] * time, slice(count))]
  waveform = audio.as_waveform(found, name)
  return waveform if channel_axis is None else waveform.mean(axis=-1, dtype=np.float32)


def _channels_last(found: np.ndarray, channel_axis: object, name: str) -> np.ndarray:
  axis = arguments.whole(
    channel_axis, "channel_axis", ranges.Range(-max(1, found.ndim), max(0, found.ndim - 1))
  )
  if found.ndim < 2:
    raise AudioError(
      f"{name} has shape {found.shape} and no axis of channels; leave out channel_axis"
    )
  found = np.moveaxis(found, axis, -1)
  if not 1 <= found.shape[-1] <= _MOST_CHANNELS:
    raise AudioError(
      f"axis {axis} of {name} has {found.shape[-1]} entries, which cannot be channels; set "
      "channel_axis to the axis of the channels (-1 for [samples, channels])"
    )
  return found


def _has_channels(found: np.ndarray) -> bool:
  """Returns whether the array has two axes and only the last axis is short enough for channels."""
  return found.ndim == 2 and 1 <= found.shape[1] <= _MOST_CHANNELS < found.shape[0]


def _hint(found: np.ndarray) -> str:
  if not _has_channels(found):
    return ""
  return "; if these are channels, pass channel_axis=-1 to average them"
