"""Plots the spectrogram of a continuation, with a line at the end of the prompt."""

import importlib.util
import io
import os
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import UserError
from audiolm_jax.io.files import atomic_write

if TYPE_CHECKING:
  from matplotlib.axes import Axes

_WINDOW_SECONDS = 0.032
_COLUMNS = 1200
_RANGE_DB = 70.0


def spectrogram_db(
  waveform: Float[np.ndarray, " samples"], sample_rate: int
) -> Float[np.ndarray, "bins columns"]:
  """Returns a power spectrogram in dB relative to its largest value.

  There are at most 1200 columns. Each column is the spectrum in a 32 ms Hann window.
  """
  window = round(_WINDOW_SECONDS * sample_rate)
  padded = np.pad(np.asarray(waveform, np.float32), window // 2)
  count = int(np.clip((len(padded) - window) // (window // 4) + 1, 1, _COLUMNS))
  starts = np.linspace(0, len(padded) - window, count).round().astype(int)
  columns = [padded[start : start + window] * np.hanning(window) for start in starts]
  power = np.abs(np.fft.rfft(columns, axis=-1)).T ** 2
  return 10 * np.log10(np.maximum(power / max(power.max(), 1e-20), 1e-20))


def check_can_plot() -> None:
  """Raises `UserError` if matplotlib is not installed."""
  if importlib.util.find_spec("matplotlib") is None:
    raise UserError(
      "plots need matplotlib, which the light install omits: pip install 'matplotlib<4'"
    )


def draw_spectrogram(
  axes: "Axes",
  waveform: Float[np.ndarray, " samples"],
  sample_rate: int,
  prompt_samples: int = 0,
) -> None:
  """Draws the spectrogram of `waveform`, with time in seconds and frequency in kHz.

  Args:
    axes: the matplotlib axes to draw on.
    waveform: the signal.
    sample_rate: Hz.
    prompt_samples: number of samples of the prompt. A line marks the end of the prompt if it lies
      inside the waveform.
  """
  seconds = len(waveform) / sample_rate
  axes.imshow(  # pyright: ignore[reportUnknownMemberType]: matplotlib leaves out types
    spectrogram_db(waveform, sample_rate),
    origin="lower",
    aspect="auto",
    cmap="magma",
    vmin=-_RANGE_DB,
    vmax=0.0,
    extent=(0.0, seconds, 0.0, sample_rate / 2000),
  )
  axes.set(xlabel="seconds", ylabel="kHz")
  if 0 < prompt_samples < len(waveform):
    end = prompt_samples / sample_rate
    axes.axvline(end, color="white", linestyle="--", linewidth=1.5)  # pyright: ignore[reportUnknownMemberType]: matplotlib leaves out types
    top = sample_rate / 2000 * 0.96
    for side, text, alignment in ((-1, "prompt", "right"), (1, "continuation", "left")):
      axes.text(  # pyright: ignore[reportUnknownMemberType]: matplotlib leaves out types
        end + side * 0.01 * seconds,
        top,
        text,
        color="white",
        fontsize=10,
        verticalalignment="top",
        horizontalalignment=alignment,
      )


def plot_continuation(
  path: str | os.PathLike[str],
  waveform: Float[np.ndarray, " samples"],
  sample_rate: int,
  prompt_samples: int,
) -> None:
  """Writes the spectrogram of `waveform` as PNG; see `draw_spectrogram`.

  Raises:
    UserError: matplotlib is missing, or the file cannot be written.
  """
  check_can_plot()
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(10, 3.2), dpi=120, layout="constrained")
  FigureCanvasAgg(figure)
  draw_spectrogram(figure.add_subplot(), waveform, sample_rate, prompt_samples)
  encoded = io.BytesIO()
  figure.savefig(encoded, format="png")  # pyright: ignore[reportUnknownMemberType]: matplotlib leaves out types
  with atomic_write(path) as file:
    file.write(encoded.getbuffer())
