"""Predicts how listeners rate the quality of speech, by a network that needs no reference."""

import warnings
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import UserError
from audiolm_jax.io import audio

DNSMOS_MISSING = "DNSMOS needs an extra: pip install -r requirements/evaluation.txt"

_RATE = 16_000


class Opinion(NamedTuple):
  """Predicted mean opinion scores, 1 to 5.

  Attributes:
    overall: overall quality.
    signal: quality of the speech.
    background: quality of the background.
  """

  overall: float
  signal: float
  background: float


@runtime_checkable
class OpinionModel(Protocol):
  """Predicts the quality of speech."""

  def rate(self, waveform: Float[np.ndarray, " samples"], sample_rate: int) -> Opinion:
    """Returns the predicted scores of a clip."""
    ...


class Dnsmos:
  """DNSMOS P.835, whose networks are part of the package speechmos.

  Raises:
    UserError: the package speechmos is not installed.

  Source: Reddy, Gopal and Cutler, DNSMOS P.835, 2022.
  """

  def __init__(self):
    try:
      from speechmos import dnsmos  # pyright: ignore[reportMissingImports]: an optional package
    except ImportError as error:
      raise UserError(DNSMOS_MISSING) from error
    self._run: Callable[[np.ndarray, int], Mapping[str, float]] = dnsmos.run

  def rate(self, waveform: Float[np.ndarray, " samples"], sample_rate: int) -> Opinion:
    """Returns the mean scores over windows of 9 s with a hop of 1 s; NaN for an empty clip.

    A clip that is shorter than a window is repeated.
    """
    resampled = np.clip(audio.resample(waveform, sample_rate, _RATE), -1.0, 1.0)
    if not len(resampled):
      return Opinion(float("nan"), float("nan"), float("nan"))
    with warnings.catch_warnings():
      # The package also computes a fourth score, which is not used; some of its filters are empty.
      warnings.filterwarnings("ignore", message="Empty filters detected", category=UserWarning)
      scores = self._run(resampled, _RATE)
    return Opinion(*(float(scores[name]) for name in ("ovrl_mos", "sig_mos", "bak_mos")))
