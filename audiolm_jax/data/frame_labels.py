"""Frame labels: a class for each frame of the labelled clips, in one `.npz` file."""

import dataclasses
import os
from collections.abc import Mapping

import numpy as np
from jaxtyping import Integer

from audiolm_jax.core.errors import DataError
from audiolm_jax.io.files import atomic_write
from audiolm_jax.io.npz import Arrays

NO_LABEL = -1
_CLIP = "clip/"
_MOST_CLIPS = 1 << 20


@dataclasses.dataclass(frozen=True)
class FrameLabels:
  """The classes of all frames in the labelled clips.

  Attributes:
    clips: labels [frames] by clip id; the last frame of a clip may be partial.
    num_labels: number of classes; labels are in [0, num_labels).
    hop_length: samples per frame.
    sample_rate: sample rate in Hz.
  """

  clips: Mapping[str, Integer[np.ndarray, " _"]]
  num_labels: int
  hop_length: int
  sample_rate: int

  def crop(self, clip_id: str, start: int, num_frames: int) -> Integer[np.ndarray, " num_frames"]:
    """Returns `num_frames` labels from frame `start` on, `NO_LABEL` after the end of the clip."""
    chosen = self.clips[clip_id][start : start + num_frames].astype(np.int32)
    return np.pad(chosen, (0, num_frames - len(chosen)), constant_values=NO_LABEL)


def save_frame_labels(path: str | os.PathLike[str], labels: FrameLabels) -> None:
  """Writes labels to a file, atomically."""
  arrays = {_CLIP + name: values.astype(np.uint16) for name, values in labels.clips.items()}
  numbers = {
    field: np.asarray(getattr(labels, field))
    for field in ("num_labels", "hop_length", "sample_rate")
  }
  with atomic_write(path) as file:
    np.savez_compressed(file, **arrays, **numbers)  # pyright: ignore[reportArgumentType]: names of arrays


def load_frame_labels(path: str | os.PathLike[str]) -> FrameLabels:
  """Reads labels that `save_frame_labels` wrote.

  Raises:
    DataError: the file is missing or damaged, or has labels out of range.
  """
  try:
    with open(path, "rb") as file:
      stored = Arrays(file, _MOST_CLIPS)
      clips = {name.removeprefix(_CLIP): stored[name] for name in stored if name.startswith(_CLIP)}
      fields = ("num_labels", "hop_length", "sample_rate")
      labels = FrameLabels(clips, *(int(stored.number(field)) for field in fields))
  except (OSError, ValueError, KeyError) as error:
    raise DataError(
      f"{path} cannot be read as labels ({error}); run launch/make_unit_labels.py again"
    ) from error
  for name, values in clips.items():
    is_valid = values.ndim == 1 and values.dtype.kind in "iu"
    if not is_valid or np.any((values < 0) | (values >= labels.num_labels)):
      raise DataError(
        f"the labels of {name} in {path} are not numbers from 0 to {labels.num_labels - 1}; run "
        "launch/make_unit_labels.py again"
      )
  return labels
