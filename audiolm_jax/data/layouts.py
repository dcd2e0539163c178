"""Folder layouts of published corpora; a layout can define the split and the speaker of a file.

librispeech   SPLIT/SPEAKER/BOOK/*.flac, also for Libri-Light (small/, medium/, ...) and for the
              folder of a single split
ljspeech      metadata.csv and wavs/
maestro       maestro-v3.0.0.csv and a folder for each year
vctk          wav48.../SPEAKER/SPEAKER_NUMBER_mic1.flac, or without _mic1
folder        any other folder; a top folder train, valid, validation, dev or test determines the
              split

Except for `folder`, the corpus may also be in a subfolder of the given folder.
"""

import csv
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.io import storage

SPLIT_FOLDERS = {
  "train": "train",
  "valid": "valid",
  "validation": "valid",
  "dev": "valid",
  "test": "test",
}
# Splits by the names that manifests can have for them.
SPLIT_NAMES = SPLIT_FOLDERS | {
  "training": "train",
  "val": "valid",
  "development": "valid",
  "testing": "test",
}
_LIBRI = re.compile(
  r"^(?:(?:.+/)?"  # LibriSpeech/ or librilight/
  r"(?P<split>(?:train|dev|test)-[^/]+|small|medium|large|duplicate|unlab-[^/]+)/)?"
  r"(?P<speaker>\d+)/[^/]+/[^/]+$"
)
_MAESTRO = re.compile(r"^(?P<above>.+/)?maestro-v[\d.]+\.csv$")
_LJSPEECH = re.compile(r"^(?P<above>[^/]+/)?metadata\.csv$")
_VCTK = re.compile(r"^(?:.+/)?wav\d+[^/]*/(?P<speaker>[a-z]\d+)/(?P=speaker)_\d+(?:_mic\d)?\.\w+$")
_MAESTRO_SPLITS = {"train": "train", "validation": "valid", "test": "test"}


class Described(NamedTuple):
  """The split and the speaker of a file; "" and None if the corpus does not define them."""

  split: str
  speaker: str | None = None


class Found(NamedTuple):
  """The layout of a folder and the files of the corpus.

  Attributes:
    layout: name of the layout, one of `LAYOUTS`.
    files: the split and the speaker of each clip, by the path of the clip relative to the folder.
    left_out: relative paths of the audio files that are not part of the layout.
  """

  layout: str
  files: dict[str, Described]
  left_out: list[str]


Layout = Callable[[str, Sequence[str], Sequence[str]], dict[str, Described] | None]


def describe(
  folder: str, names: Sequence[str], audio: Sequence[str], layout: str | None = None
) -> Found:
  """Returns the layout of a folder and the files that match it.

  Args:
    folder: path or URL of the folder.
    names: relative paths of all files below the folder.
    audio: the paths in `names` that are audio files.
    layout: name of the layout, one of `LAYOUTS`; None for the first layout that fits.

  Raises:
    DataError: the layout is unknown; the folder does not have the layout; the detected layout
      excludes more than half of the audio files; or MAESTRO has a damaged table or several tables.
  """
  if layout is None:
    for name, make in LAYOUTS.items():
      files = make(folder, names, audio)
      if files is not None:
        found = Found(name, files, [one for one in audio if one not in files])
        _check_majority(folder, found, len(audio))
        return found
    return Found("folder", {}, [])
  if layout not in LAYOUTS:
    raise DataError(f"unknown layout {layout!r}; the layouts are {', '.join(LAYOUTS)}")
  files = LAYOUTS[layout](folder, names, audio)
  if files is None:
    raise DataError(f"{folder} does not have the layout {layout}; give no layout, or 'folder'")
  return Found(layout, files, [one for one in audio if one not in files])


def read_texts(folder: str, layout: str, names: Sequence[str]) -> dict[str, str]:
  """Returns the texts that a corpus contains, by the path of each clip without its suffix.

  Args:
    folder: path or URL of the folder.
    layout: name of the layout, one of `LAYOUTS`; only "ljspeech" and "librispeech" have texts.
    names: relative paths of all files below the folder.

  Raises:
    DataError: a file with texts cannot be read.
  """
  found: dict[str, str] = {}
  for name in names:
    above, _, file = name.rpartition("/")
    above = f"{above}/" if above else ""
    try:
      if layout == "ljspeech" and file == "metadata.csv":
        for line in storage.read_lines(storage.join(folder, name)):
          clip, *versions = line.rstrip("\r\n").split("|")
          if versions:  # the original text, and the text with numbers in words, which is used
            found[f"{above}wavs/{clip}"] = versions[-1]
      elif layout == "librispeech" and file.endswith(".trans.txt"):
        for line in storage.read_lines(storage.join(folder, name)):
          clip, _, words = line.strip().partition(" ")
          found[above + clip] = words
    except (OSError, UserError) as error:
      raise DataError(
        f"the texts in {storage.join(folder, name)} cannot be read: {error}"
      ) from error
  return found


def _check_majority(folder: str, found: Found, total: int) -> None:
  # With the layout `folder`, the held-out files of the corpus would be in `train`.
  if 2 * len(found.left_out) > total:
    raise DataError(
      f"{folder} has {len(found.left_out)} of {total} audio files outside of a corpus with the "
      f"layout {found.layout}, such as {found.left_out[0]}; move them, or choose with --layout "
      f"{found.layout} (only the corpus) or --layout folder (all, with the folders' splits)"
    )


def _librispeech(
  folder: str, names: Sequence[str], audio: Sequence[str]
) -> dict[str, Described] | None:
  matches = {name: match for name in audio if (match := _LIBRI.match(name))}
  named = {name: match for name, match in matches.items() if match["split"]}
  if not named and len(matches) < len(audio):
    return None  # other corpora also have some folders whose names are numbers
  return {
    name: Described(_leading_split(match["split"] or ""), match["speaker"])
    for name, match in (named or matches).items()
  } or None


def _ljspeech(
  folder: str, names: Sequence[str], audio: Sequence[str]
) -> dict[str, Described] | None:
  above = [match["above"] or "" for name in names if (match := _LJSPEECH.match(name))]
  if len(above) != 1:  # several corpora of this layout can have different speakers
    return None
  wavs = [name for name in audio if name.startswith(f"{above[0]}wavs/")]
  return {name: Described("", "ljspeech") for name in wavs} or None


def _maestro(
  folder: str, names: Sequence[str], audio: Sequence[str]
) -> dict[str, Described] | None:
  tables = {m["above"] or "": name for name in sorted(names) if (m := _MAESTRO.match(name))}
  if not tables:
    return None
  if len(tables) > 1:
    raise DataError(
      f"{folder} has several copies of MAESTRO ({', '.join(sorted(tables))}), with other splits "
      "each; give the folder of one of them"
    )
  ((above, name),) = tables.items()
  table = storage.join(folder, name)
  try:
    rows = list(csv.DictReader(storage.read_lines(table)))
    return {above + row["audio_filename"]: Described(_MAESTRO_SPLITS[row["split"]]) for row in rows}
  except (OSError, csv.Error, KeyError) as error:
    raise DataError(
      f"{table} is not a MAESTRO table ({type(error).__name__}: {error}); copy it again"
    ) from error


def _vctk(folder: str, names: Sequence[str], audio: Sequence[str]) -> dict[str, Described] | None:
  matches = {name: match for name in audio if (match := _VCTK.match(name))}
  return {name: Described("", match["speaker"]) for name, match in matches.items()} or None


def _folder(folder: str, names: Sequence[str], audio: Sequence[str]) -> dict[str, Described]:
  first = {name: name.split("/")[0].lower() if "/" in name else "" for name in audio}
  return {name: Described(SPLIT_FOLDERS.get(level, "")) for name, level in first.items()}


def _leading_split(name: str) -> str:
  """Returns the split for the first word of a folder name: "valid" for dev-clean; "" if unknown."""
  return SPLIT_FOLDERS.get(re.split(r"[-_]", name)[0], "")


LAYOUTS: dict[str, Layout] = {
  "maestro": _maestro,
  "ljspeech": _ljspeech,
  "librispeech": _librispeech,
  "vctk": _vctk,
  "folder": _folder,
}
