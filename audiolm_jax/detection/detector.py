"""A trained detector at work: how likely it is that sound was made by a model.

It knows the samples of the bundle that it was trained on, by what the sampling of codes leaves in
them. It promises nothing about other models, and little about sound that was changed on its way: a
low probability is no proof of a recording, and a high one none of a forgery.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import AudioError
from audiolm_jax.detection.classifier import Classifier, ClassifierConfig
from audiolm_jax.detection.windows import BATCH, WINDOW_SECONDS, Window, in_batches, windows
from audiolm_jax.io import audio


class Detection(NamedTuple):
  """What is heard in one piece of sound.

  Attributes:
    probability_synthetic: of the whole: the mean log odds of its windows, as a probability.
    per_second: the same of the windows whose middle lies in each second; None where it is silent.
  """

  probability_synthetic: float
  per_second: list[float | None]


@dataclasses.dataclass(frozen=True)
class Detector:
  """Windows of a second, four of them in each second, heard one by one.

  Attributes:
    config: of the network.
    params: its parameters.
  """

  config: ClassifierConfig
  params: Mapping[str, Any]

  @property
  def sample_rate(self) -> int:
    """Hz, of what it hears."""
    return self.config.features.sample_rate

  def detect(
    self, waveform: Float[np.ndarray, "samples"], sample_rate: int, name: str = "the waveform"
  ) -> Detection:
    """How likely it is that a waveform was made by a model.

    Args:
      waveform: in [-1, 1], a tenth of a second or more; below one second it is heard mirrored at
        its ends.
      name: of the sound, for messages.
    Raises:
      AudioError: too short, or silent.
    """
    waveform = audio.resample(audio.as_waveform(waveform, name), sample_rate, self.sample_rate)
    return self.detect_blocks([waveform], name)

  def detect_blocks(
    self, blocks: Iterable[Float[np.ndarray, "block"]], name: str = "the waveform"
  ) -> Detection:
    """The same for sound in blocks of any length at the detector's own rate, in bounded memory."""
    batch: list[Window] = []
    starts: list[int] = []
    odds: list[float] = []  # NaN where a window is silent

    def judge() -> None:
      values = self.log_odds(np.stack([piece.waveform for piece in batch]))
      for piece, value in zip(batch, values, strict=True):
        odds[piece.number] = float(value)
      batch.clear()

    for piece in windows(blocks, self.sample_rate, name):
      starts.append(piece.start)
      odds.append(float("nan"))
      if not piece.is_silent:
        batch.append(piece)
      if len(batch) == BATCH:
        judge()
    if batch:
      judge()
    if not np.isfinite(odds).any():
      raise AudioError(f"{name} is silent: there is nothing to be heard in it")
    window = round(WINDOW_SECONDS * self.sample_rate)
    seconds = -(-(starts[-1] + window) // self.sample_rate)
    middles = (np.array(starts) + window // 2) // self.sample_rate
    found, heard = np.array(odds), np.isfinite(odds)
    per_second: list[float | None] = []
    for second in range(seconds):
      inside = middles == second
      inside[-1] |= not inside.any()  # the last second may be too short for the middle of a window
      sounding = found[inside & heard]
      per_second.append(_probability(sounding) if len(sounding) else None)
    return Detection(_probability(found[heard]), per_second)

  def score(self, pieces: Sequence[Float[np.ndarray, "samples"]]) -> Float[np.ndarray, "pieces"]:
    """Log odds of synthetic against real of many pieces, each the mean of its windows.

    Args:
      pieces: at the detector's rate, of any lengths from a tenth of a second.
    Returns:
      NaN for a piece that is silent.
    """
    sounding, owners = [], []
    for number, piece in enumerate(pieces):
      for window in windows([piece], self.sample_rate, f"piece {number}"):
        if not window.is_silent:
          sounding.append(window.waveform)
          owners.append(number)
    odds = self.log_odds(np.stack(sounding)) if sounding else np.zeros(0)
    sums = np.bincount(owners, odds, len(pieces))
    counts = np.bincount(owners, minlength=len(pieces))
    return np.where(counts, sums / np.maximum(counts, 1), np.nan)

  def log_odds(self, windows: Float[np.ndarray, "windows samples"]) -> Float[np.ndarray, "windows"]:
    """Of synthetic against real, for pieces of one length at the detector's rate."""
    if not len(windows):
      return np.zeros(0, np.float32)
    return in_batches(functools.partial(window_log_odds, self.config, self.params), windows)


def _probability(odds: Float[np.ndarray, "windows"]) -> float:
  """Of the mean of log odds."""
  return float(1.0 / (1.0 + np.exp(-np.clip(np.mean(odds), -50.0, 50.0))))


@functools.partial(jax.jit, static_argnums=0)
def window_log_odds(
  config: ClassifierConfig, params: Mapping[str, Any], windows: jax.Array
) -> jax.Array:
  """Of synthetic against real, for windows of one length side by side."""
  logits = Classifier(config).apply({"params": params}, windows)
  return logits[:, 1] - logits[:, 0]
