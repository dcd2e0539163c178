"""Reads pairs of sounds, one of which should have a higher likelihood under a model.

The pairs test words, sentences, stories or voices. Three layouts are supported:

- a folder with `gold.csv` of ZeroSpeech 2021 (sWUGGY, sBLIMP) and the sounds;
- a folder of SALMon: a folder for each task with `sample_<number>_<0 or 1>.wav`, where 0 is the
  likelier sound;
- a `.jsonl` manifest whose rows name two files, `good` and `bad`, and may have `id` and `category`,
  for StoryCloze and all other pairs.

Source: Nguyen et al., "The Zero Resource Speech Benchmark 2021"; Maimon et al., "SALMon".
"""

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from audiolm_jax.core import configs, plain_json
from audiolm_jax.core.errors import DataError
from audiolm_jax.data.manifest import AUDIO_SUFFIXES
from audiolm_jax.evaluation.lines import read_lines

IN_VOCABULARY = "in vocabulary"
_BANDS = ((1, "oov"), (6, "1-5"), (21, "6-20"), (101, "21-100"))


class SoundPair(NamedTuple):
  """Two sounds; the good sound should have the higher likelihood.

  Attributes:
    id: id of the pair; pairs with equal ids, such as pairs in several voices, count as one.
    categories: categories whose results include the pair, in addition to the result over all pairs.
    good: path of the likelier sound.
    bad: path of the other sound.
  """

  id: str
  categories: tuple[str, ...]
  good: str
  bad: str


def read_pairs(source: str | os.PathLike[str]) -> list[SoundPair]:
  """Reads the pairs of a folder or manifest.

  Raises:
    DataError: the source has no supported layout, a pair is incomplete, or a file is missing.
    UserError: the manifest is not text.
  """
  source = Path(source)
  if source.name == "gold.csv" or (source / "gold.csv").is_file():
    folder = source.parent if source.name == "gold.csv" else source
    pairs = list(_zerospeech(folder))
  elif source.is_dir():
    pairs = list(_salmon(source))
  else:
    pairs = list(_manifest(source))
  if not pairs:
    raise DataError(
      f"{source} has no pairs: neither gold.csv (ZeroSpeech 2021) nor folders of sample_N_0.wav "
      "and sample_N_1.wav (SALMon) nor rows with good and bad"
    )
  for path in (path for pair in pairs for path in (pair.good, pair.bad)):
    if not os.path.isfile(path):
      raise DataError(f"{source} names {path}, which does not exist; download it again")
  return pairs


def _zerospeech(folder: Path) -> Iterator[SoundPair]:
  """Yields the pairs in `gold.csv`; the two rows of a pair have equal ids and voices.

  The category of a pair is its type (sBLIMP) or the frequency of its word (sWUGGY).
  """
  try:
    with open(folder / "gold.csv", encoding="utf-8", newline="") as file:
      rows = list(csv.DictReader(file))
    found: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for row in rows:
      key = (row.get("type", ""), row.get("subtype", ""), row["id"], row["voice"])
      found.setdefault(key, {})[str(int(float(row["correct"])))] = row
  except (OSError, UnicodeDecodeError, KeyError, ValueError) as error:
    raise DataError(
      f"{folder / 'gold.csv'} does not have the format of ZeroSpeech 2021 "
      f"({type(error).__name__}: {error})"
    ) from error
  for (kind, subtype, number, _), both in found.items():
    if set(both) != {"0", "1"}:
      raise DataError(
        f"{folder / 'gold.csv'}: pair {number} has only one of its two rows; download it again"
      )
    frequency = both["1"].get("frequency", "")
    try:
      categories = (kind,) if kind else _frequency(frequency)
    except ValueError as error:
      raise DataError(
        f"{folder / 'gold.csv'}: the frequency of pair {number} is {configs.shown(frequency)}, "
        "which is not a number; download it again"
      ) from error
    good, bad = (str(_sound(folder, both[which]["filename"])) for which in ("1", "0"))
    yield SoundPair(f"{kind}/{subtype}/{number}", categories, good, bad)


def _frequency(value: str) -> tuple[str, ...]:
  """Returns the categories of a word by its frequency in LibriSpeech."""
  if not value:
    return ()
  count = float(value)
  band = next((name for limit, name in _BANDS if count < limit), ">100")
  return (band,) if band == "oov" else (band, IN_VOCABULARY)


def _salmon(folder: Path) -> Iterator[SoundPair]:
  for task in sorted(path for path in folder.iterdir() if path.is_dir()):
    numbered: dict[int, dict[str, Path]] = {}
    for path in task.iterdir():
      name = re.fullmatch(r"sample_(\d+)_([01])", path.stem)
      if name and path.suffix.lower() in AUDIO_SUFFIXES:
        numbered.setdefault(int(name[1]), {})[name[2]] = path
    for number, both in sorted(numbered.items()):
      if set(both) != {"0", "1"}:
        raise DataError(f"{task}: sample {number} has only one of its two files; download it again")
      yield SoundPair(f"{task.name}/{number}", (task.name,), str(both["0"]), str(both["1"]))


def _manifest(path: Path) -> Iterator[SoundPair]:
  for number, line in read_lines(path):
    try:
      row = plain_json.parse(line)
      good, bad = (
        str(path.parent / configs.checked(str, row[which], which)) for which in ("good", "bad")
      )
      categories = (str(row["category"]),) if row.get("category") else ()
      yield SoundPair(str(row.get("id", number)), categories, good, bad)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise DataError(
        f"{path}, line {number}: not a JSON object with the fields good and bad"
      ) from error


def _sound(folder: Path, name: str) -> Path:
  """Returns the path of a file that is named with or without its suffix."""
  for suffix in ("", *AUDIO_SUFFIXES):
    if (folder / f"{name}{suffix}").is_file():
      return folder / f"{name}{suffix}"
  return folder / f"{name}.wav"
