"""Exports units (semantic tokens) and features for fastabx.

Source: the documentation of fastabx 0.9: item files, files of units, and the frames of an item.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.bundles import Bundle
from audiolm_jax.core.configs import JsonDict
from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation.abx import PhoneItem
from audiolm_jax.evaluation.exports.files import make_folder, write_lines
from audiolm_jax.evaluation.suites.content import features_of

_MOST_REPEATED = 2  # maximum number of repeats of the last frame


def export_units(
  bundle: Bundle,
  items: Sequence[PhoneItem],
  read: Callable[[str], tuple[str, Float[np.ndarray, "samples"]]],
  output_dir: str,
) -> JsonDict:
  """Writes `items.item`, `units.jsonl` and a folder of features for each kind of tokens.

  The features are the vectors that the suite `content` compares. fastabx raises an error for items
  without a frame, so these items are omitted from the item file. fastabx also raises an error for
  items that end after the last frame, so the last frame is repeated, at most twice.

  Args:
    bundle: bundle whose tokenizers encode the files.
    items: phones with file, time and speaker.
    read: function that returns the path and the waveform of an item's file; the waveform has the
      bundle's sample rate.
    output_dir: an existing folder.

  Returns:
    The frame rate of the units, the frame rate of each folder of features, and the numbers of
    exported and of omitted items. fastabx needs the frame rates.

  Raises:
    DataError: an item ends more than two frames after the end of its file, or no item has a frame.
  """
  rates = (bundle.semantic.spec.frame_rate, bundle.codec.spec.frame_rate)
  kept = [item for item in items if all(len(_frames(item, rate)) for rate in rates)]
  if not kept:
    raise DataError("every item is shorter than a frame; give items of longer phones")
  frequencies: dict[str, str] = {}
  lines = []
  for file in dict.fromkeys(item.file for item in kept):
    path, waveform = read(file)
    tokens, features = features_of(bundle, waveform)
    of_file = [item for item in kept if item.file == file]
    units = _padded(tokens, of_file, rates[0])
    lines.append(json.dumps({"audio": path, "units": units.tolist()}))
    for title, (frames, rate) in features.items():
      name = re.sub(r"\W+", "_", title)
      frequencies[name] = _number(rate)
      make_folder(folder := os.path.join(output_dir, name))
      np.save(os.path.join(folder, f"{file}.npy"), _padded(frames, of_file, rate))
  write_lines(os.path.join(output_dir, "units.jsonl"), lines)
  header = "#file onset offset #phone prev-phone next-phone speaker"
  rows = [
    f"{i.file} {_number(i.onset)} {_number(i.offset)} {i.phone} {' '.join(i.context)} {i.speaker}"
    for i in kept
  ]
  write_lines(os.path.join(output_dir, "items.item"), [header, *rows])
  counts = {"items": len(kept), "items_without_a_frame": len(items) - len(kept)}
  return {"frequency_of_units": _number(rates[0]), "frequencies": frequencies} | counts


def _frames(item: PhoneItem, frame_rate: float) -> range:
  """Returns the frame indices of an item, as fastabx computes them.

  The centres of these frames are in the closed interval from onset to offset.
  """
  onset, offset, rate, half = (
    Decimal(_number(x)) for x in (item.onset, item.offset, frame_rate, 0.5)
  )
  first = (onset * rate - half).to_integral_value(ROUND_CEILING)
  last = (offset * rate - half).to_integral_value(ROUND_FLOOR)
  return range(int(first), int(last) + 1)


def _padded(
  frames: Float[np.ndarray, "frames dim"] | Int[np.ndarray, "frames"],
  items: Sequence[PhoneItem],
  frame_rate: float,
) -> np.ndarray:
  """Repeats the last frame until the frames reach the end of the last item.

  Raises:
    DataError: an item ends more than two frames after the last frame.
  """
  last = max(items, key=lambda item: item.offset)
  missing = max(0, _frames(last, frame_rate).stop - len(frames))
  if missing > _MOST_REPEATED:
    raise DataError(
      f"an item of {last.file} ends at {last.offset:g} s, after the end of the file at "
      f"{len(frames) / frame_rate:.2f} s; give the files of the items"
    )
  return np.pad(frames, [(0, missing)] + [(0, 0)] * (frames.ndim - 1), mode="edge")


def _number(value: float) -> str:
  """Returns the shortest exact decimal notation of a number, without exponent."""
  return np.format_float_positional(value, trim="-")
