"""Sound statistics of a continuation and its prompt: level, pitch, silence, clicks."""

import dataclasses

import numpy as np
from jaxtyping import Float

from audiolm_jax.evaluation.pitch import pitch_track

_FRAME_SECONDS = 0.02
_LOUD_QUANTILE = 0.95
_ACTIVE_DB = 30.0  # maximum distance of an active frame from the loud level
_CLICK_RATIO = 25.0
_CLICK_LEAST = 0.1
_CLICK_CONTEXT_SECONDS = 0.01


@dataclasses.dataclass(frozen=True)
class SoundStatistics:
  """Statistics of one piece of sound.

  Attributes:
    level_db: mean level of the active frames in dB of full scale; NaN if no frame is active.
    pitch_hz: median pitch in Hz; NaN if no frame is voiced.
    pitch_range_semitones: range from the 5th to the 95th percentile of the pitch; NaN if no frame
      is voiced.
    voiced_share: share of voiced frames, which have a pitch; the hop is 10 ms.
    active_share: share of active frames. An active frame of 20 ms has a level above -90 dB and less
      than 30 dB below the loud level, see `sound_statistics`.
    longest_pause_seconds: longest duration without an active frame.
    clicks_per_second: number of jumps of the waveform per second, see `count_clicks`.
    clipped_share: share of samples with a magnitude of 0.999 or more.
    centroid_hz: mean spectral centroid of the active frames; NaN if no frame is active.
  """

  level_db: float
  pitch_hz: float
  pitch_range_semitones: float
  voiced_share: float
  active_share: float
  longest_pause_seconds: float
  clicks_per_second: float
  clipped_share: float
  centroid_hz: float


def sound_statistics(
  waveform: Float[np.ndarray, " samples"],
  sample_rate: int,
  *,
  loud_db: float | None = None,
  lowest_pitch: float = 65.0,
  highest_pitch: float = 450.0,
) -> SoundStatistics:
  """Returns the statistics of one piece of sound.

  Args:
    waveform: the samples.
    sample_rate: sample rate in Hz.
    loud_db: loud level in dB of full scale, see `loud_level`; it determines the threshold of active
      frames. For a continuation, give the loud level of its prompt. None for the loud level of
      `waveform`.
    lowest_pitch: lowest pitch to search for in Hz.
    highest_pitch: highest pitch to search for in Hz.

  Raises:
    ValueError: the waveform is shorter than a frame of 20 ms.
  """
  frame = round(_FRAME_SECONDS * sample_rate)
  usable = waveform[: len(waveform) // frame * frame]
  if not len(usable):
    raise ValueError(f"the waveform has {len(waveform)} samples; at least {frame} are needed")
  power = np.mean(np.square(usable.reshape(-1, frame), dtype=np.float64), axis=-1)
  levels = 10 * np.log10(power + 1e-12)
  if loud_db is None:
    loud_db = loud_level(waveform, sample_rate)
  active = levels > max(loud_db - _ACTIVE_DB, -90.0)
  pitch = pitch_track(waveform, sample_rate, lowest=lowest_pitch, highest=highest_pitch)
  voiced = pitch[np.isfinite(pitch)]
  low, middle, high = np.quantile(voiced, (0.05, 0.5, 0.95)) if len(voiced) else (np.nan,) * 3
  return SoundStatistics(
    level_db=float(10 * np.log10(power[active].mean())) if active.any() else float("nan"),
    pitch_hz=float(middle),
    pitch_range_semitones=float(12 * np.log2(high / low)),
    voiced_share=len(voiced) / len(pitch),
    active_share=float(active.mean()),
    longest_pause_seconds=_longest_run(~active) * _FRAME_SECONDS,
    clicks_per_second=count_clicks(waveform, sample_rate) * sample_rate / len(waveform),
    clipped_share=float((np.abs(waveform) >= 0.999).mean()),
    centroid_hz=_centroid(usable.reshape(-1, frame)[active], sample_rate),
  )


def loud_level(waveform: Float[np.ndarray, " samples"], sample_rate: int) -> float:
  """Returns the 95th percentile of frame levels, in dB of full scale; a frame has 20 ms."""
  frame = round(_FRAME_SECONDS * sample_rate)
  power = np.mean(
    np.square(waveform[: len(waveform) // frame * frame].reshape(-1, frame), dtype=np.float64), -1
  )
  return float(np.quantile(10 * np.log10(power + 1e-12), _LOUD_QUANTILE))


def count_clicks(waveform: Float[np.ndarray, " samples"], sample_rate: int) -> int:
  """Counts jumps of the waveform.

  At a jump, the magnitude of the second difference is above 0.1 of full scale. It is also above
  25 times its median in the surrounding block of 10 ms. Jumps at intervals of at most 5 ms count as
  one jump.
  """
  bend = np.abs(np.diff(np.asarray(waveform, np.float64), n=2))
  block = round(_CLICK_CONTEXT_SECONDS * sample_rate)
  if len(bend) < block:
    return 0
  whole = bend[: len(bend) // block * block].reshape(-1, block)
  usual = np.repeat(np.median(whole, axis=-1), block)
  jumps = np.flatnonzero((whole.ravel() > _CLICK_RATIO * usual) & (whole.ravel() > _CLICK_LEAST))
  return int((np.diff(jumps, prepend=-2 * block) > block // 2).sum())


def level_difference_db(continuation: SoundStatistics, prompt: SoundStatistics) -> float:
  """Returns continuation level minus prompt level, in dB; NaN if one of the sounds is silent."""
  return continuation.level_db - prompt.level_db


def pitch_difference_semitones(continuation: SoundStatistics, prompt: SoundStatistics) -> float:
  """Returns continuation pitch minus prompt pitch, in semitones; the pitches are medians.

  Returns NaN if one of the two sounds has no voiced frame.
  """
  return float(12 * np.log2(continuation.pitch_hz / prompt.pitch_hz))


def _centroid(frames: Float[np.ndarray, "frames samples"], sample_rate: int) -> float:
  if not len(frames):
    return float("nan")
  magnitudes = np.abs(np.fft.rfft(frames * np.hanning(frames.shape[-1]), axis=-1))
  frequencies = np.fft.rfftfreq(frames.shape[-1], 1 / sample_rate)
  return float((magnitudes @ frequencies / (magnitudes.sum(axis=-1) + 1e-12)).mean())


def _longest_run(flags: np.ndarray) -> int:
  bounds = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
  lengths = bounds[1::2] - bounds[::2]
  return int(lengths.max()) if len(lengths) else 0
