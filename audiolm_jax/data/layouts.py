"""Folder layouts of published corpora, which define the split and the speaker of each file.

librispeech   SPLIT/SPEAKER/BOOK/*.flac, also for Libri-Light (small/, medium/, ...) and for the
              folder of a single split
ljspeech      metadata.csv and wavs/
maestro       maestro-v3.0.0.csv and a folder for each year
folder        any other; a top folder train, valid, validation, dev or test is the split
"""

import csv
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from audiolm_jax.core.errors import DataError
from audiolm_jax.io import storage

SPLIT_FOLDERS = {
  "train": "train",
  "valid": "valid",
  "validation": "valid",
  "dev": "valid",
  "test": "test",
}
_LIBRI = re.compile(
  r"^(?:(?:[^/]+/)?"  # LibriSpeech/ or librilight/
  r"(?P<split>(?:train|dev|test)-[^/]+|small|medium|large|duplicate|unlab-[^/]+)/)?"
  r"(?P<speaker>\d+)/[^/]+/[^/]+$"
)
_MAESTRO = re.compile(r"^maestro-v[\d.]+\.csv$")
_MAESTRO_SPLITS = {"train": "train", "validation": "valid", "test": "test"}


class Described(NamedTuple):
  """The split and the speaker of a file; the split is "" if the corpus does not define it."""

  split: str
  speaker: str | None = None


Layout = Callable[[str, Sequence[str], Sequence[str]], dict[str, Described] | None]


def describe(
  folder: str, names: Sequence[str], audio: Sequence[str], layout: str | None = None
) -> dict[str, Described]:
  """Returns the split and the speaker of each clip of a folder, by the clip's path in it.

  Args:
    folder: path or URL.
    names: paths of all files below the folder.
    audio: the paths in `names` that are audio files.
    layout: one of `LAYOUTS`; None for the first that fits.

  Raises:
    DataError: the layout is unknown, or the folder does not have it.
  """
  if layout is None:
    fitting = (make(folder, names, audio) for make in LAYOUTS.values())
    return next((found for found in fitting if found is not None), {})
  if layout not in LAYOUTS:
    raise DataError(f"unknown layout {layout!r}; the layouts are {', '.join(LAYOUTS)}")
  found = LAYOUTS[layout](folder, names, audio)
  if found is None:
    raise DataError(f"{folder} does not have the layout {layout}; give no layout, or 'folder'")
  return found


def _librispeech(
  folder: str, names: Sequence[str], audio: Sequence[str]
) -> dict[str, Described] | None:
  matches = {name: _LIBRI.match(name) for name in audio}
  found = {
    name: Described(_leading_split(match["split"] or ""), match["speaker"])
    for name, match in matches.items()
    if match is not None
  }
  return found if found and len(found) == len(audio) else None


def _ljspeech(
  folder: str, names: Sequence[str], audio: Sequence[str]
) -> dict[str, Described] | None:
  wavs = [name for name in audio if name.startswith("wavs/")]
  if "metadata.csv" not in names or not wavs:
    return None
  return {name: Described("", "ljspeech") for name in wavs}


def _maestro(
  folder: str, names: Sequence[str], audio: Sequence[str]
) -> dict[str, Described] | None:
  tables = [name for name in names if _MAESTRO.match(name)]
  if not tables:
    return None
  table = storage.join(folder, tables[-1])
  try:
    rows = list(csv.DictReader(storage.read_text(table).splitlines()))
    return {row["audio_filename"]: Described(_MAESTRO_SPLITS[row["split"]]) for row in rows}
  except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
    raise DataError(
      f"{table} is not a MAESTRO table ({type(error).__name__}: {error}); copy it again"
    ) from error


def _folder(folder: str, names: Sequence[str], audio: Sequence[str]) -> dict[str, Described]:
  first = {name: name.split("/")[0].lower() if "/" in name else "" for name in audio}
  return {name: Described(SPLIT_FOLDERS.get(level, "")) for name, level in first.items()}


def _leading_split(name: str) -> str:
  """Returns the split that a folder's name starts with ("valid" for dev-clean); "" if none."""
  return SPLIT_FOLDERS.get(re.split(r"[-_]", name)[0], "")


LAYOUTS: dict[str, Layout] = {
  "maestro": _maestro,
  "ljspeech": _ljspeech,
  "librispeech": _librispeech,
  "folder": _folder,
}
