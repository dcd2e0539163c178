"""Spectrograms of several clips in one picture."""

import io
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax.io import plotting
from audiolm_jax.io.files import atomic_write


def save_spectrogram_grid(
  path: str | os.PathLike[str],
  clips: Sequence[Float[np.ndarray, "_"]],
  sample_rate: int,
  *,
  titles: Sequence[str] | None = None,
  prompt_seconds: float | None = None,
  columns: int = 2,
) -> None:
  """Writes a PNG file with the spectrogram of each clip and a line at the end of the prompt.

  Args:
    path: output file.
    clips: waveforms.
    sample_rate: sample rate of the clips in Hz.
    titles: title of each spectrogram; None for no titles.
    prompt_seconds: length of the prompt in seconds; None for no line.
    columns: number of spectrograms side by side.

  Raises:
    UserError: matplotlib is not installed, or the file cannot be written.
  """
  plotting.check_can_plot()
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  rows = -(-len(clips) // columns)
  figure = Figure(figsize=(7 * columns, 2.2 * rows), layout="constrained")
  FigureCanvasAgg(figure)
  axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
  for index, axis in enumerate(axes):
    if index >= len(clips):
      axis.set_visible(False)
      continue
    plotting.draw_spectrogram(axis, clips[index], sample_rate)
    if prompt_seconds is not None:
      axis.axvline(prompt_seconds, color="white", linewidth=1.5, linestyle="--")
    if titles is not None:
      axis.set_title(titles[index], fontsize=9)
    axis.set_xlabel("seconds", fontsize=8)
    axis.set_ylabel("kHz", fontsize=8)
  picture = io.BytesIO()
  figure.savefig(picture, format="png", dpi=80)
  with atomic_write(path) as file:
    file.write(picture.getbuffer())
