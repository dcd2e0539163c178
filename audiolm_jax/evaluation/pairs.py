"""Pairs of sounds of which a model should find one likelier: words, sentences, stories, voices.

Three layouts are read:

- a folder with the `gold.csv` of ZeroSpeech 2021 (sWUGGY, sBLIMP) and the sounds beside it;
- a folder of SALMon: a folder for each task, in it `sample_<number>_<0 or 1>.wav`, 0 the likelier;
- a `.jsonl` manifest whose rows name two files, `good` and `bad`, and may have `id` and `category`;
  StoryCloze and all else.

Source: Nguyen et al., "The Zero Resource Speech Benchmark 2021"; Maimon et al., "SALMon".
"""

import csv
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from audiolm_jax.core.errors import DataError
from audiolm_jax.data.manifest import AUDIO_SUFFIXES

IN_VOCABULARY = "in vocabulary"
_BANDS = ((1, "oov"), (6, "1-5"), (21, "6-20"), (101, "21-100"))


class Pair(NamedTuple):
  """Two sounds.

  Attributes:
    id: pairs with the same one (voices that say it) count together as one.
    categories: in which it is counted, beside the whole.
    good, bad: paths; the first should be likelier.
  """

  id: str
  categories: tuple[str, ...]
  good: str
  bad: str


def read_pairs(source: str | os.PathLike[str]) -> list[Pair]:
  """The pairs of a folder or manifest, each of whose files is there.

  Raises:
    DataError: none of the layouts, or a file that is missing.
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
      f"{source} holds no pairs: neither gold.csv (ZeroSpeech 2021) nor folders of sample_N_0.wav "
      "and sample_N_1.wav (SALMon) nor rows with good and bad"
    )
  for path in (path for pair in pairs for path in (pair.good, pair.bad)):
    if not os.path.isfile(path):
      raise DataError(f"{source} names {path}, which is not there; download it again")
  return pairs


def _zerospeech(folder: Path) -> Iterator[Pair]:
  """Rows of one id and voice, one of them `correct`; sBLIMP has types, sWUGGY frequencies."""
  try:
    with open(folder / "gold.csv", encoding="utf-8", newline="") as file:
      rows = list(csv.DictReader(file))
    found: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for row in rows:
      key = (row.get("type", ""), row.get("subtype", ""), row["id"], row["voice"])
      found.setdefault(key, {})[str(int(float(row["correct"])))] = row
  except (OSError, UnicodeDecodeError, KeyError, ValueError) as error:
    raise DataError(
      f"{folder / 'gold.csv'} is not as in ZeroSpeech 2021 ({type(error).__name__}: {error})"
    ) from error
  for (kind, subtype, number, _), both in found.items():
    if set(both) != {"0", "1"}:
      raise DataError(f"{folder / 'gold.csv'}: pair {number} lacks one of its two rows")
    categories = (kind,) if kind else _frequency(both["1"].get("frequency", ""))
    good, bad = (str(_sound(folder, both[which]["filename"])) for which in ("1", "0"))
    yield Pair(f"{kind}/{subtype}/{number}", categories, good, bad)


def _frequency(value: str) -> tuple[str, ...]:
  """The bands of a word by how often LibriSpeech has it."""
  if not value:
    return ()
  count = float(value)
  band = next((name for limit, name in _BANDS if count < limit), ">100")
  return (band,) if band == "oov" else (band, IN_VOCABULARY)


def _salmon(folder: Path) -> Iterator[Pair]:
  for task in sorted(path for path in folder.iterdir() if path.is_dir()):
    numbered: dict[int, dict[str, Path]] = {}
    for path in task.iterdir():
      name = re.fullmatch(r"sample_(\d+)_([01])", path.stem)
      if name and path.suffix.lower() in AUDIO_SUFFIXES:
        numbered.setdefault(int(name[1]), {})[name[2]] = path
    for number, both in sorted(numbered.items()):
      if set(both) != {"0", "1"}:
        raise DataError(f"{task}: sample {number} has no partner; download it again")
      yield Pair(f"{task.name}/{number}", (task.name,), str(both["0"]), str(both["1"]))


def _manifest(path: Path) -> Iterator[Pair]:
  try:
    lines = path.read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise DataError(f"cannot read the pairs in {path}: {error}") from error
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
      good, bad = (str(path.parent / row[which]) for which in ("good", "bad"))
      categories = (str(row["category"]),) if row.get("category") else ()
      yield Pair(str(row.get("id", number)), categories, good, bad)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
      raise DataError(f"{path}, line {number}: not an object with good and bad") from error


def _sound(folder: Path, name: str) -> Path:
  """A file named with or without its suffix."""
  for suffix in ("", *AUDIO_SUFFIXES):
    if (folder / f"{name}{suffix}").is_file():
      return folder / f"{name}{suffix}"
  return folder / f"{name}.wav"
