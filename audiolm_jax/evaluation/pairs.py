"""Pairs of sounds of which a model should find one likelier: words, sentences, stories, voices.

Three layouts are read:

- a folder with the `gold.csv` of ZeroSpeech 2021 (sWUGGY, sBLIMP) and the sounds beside it;
- a folder of SALMon: a folder for each task, in it `sample_<number>_<0 or 1>.wav`, 0 the likelier;
- a `.jsonl` manifest whose rows name two files, `good` and `bad`, and may have `id` and `category`;
  StoryCloze and all else.

Source: Nguyen et al., "The Zero Resource Speech Benchmark 2021"; Maimon et al., "SALMon".
"""

import csv
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from audiolm_jax.data.token_shards import TokenClip
from audiolm_jax.errors import DataError
from audiolm_jax.evaluation.likelihood import crops, stage_scorer
from audiolm_jax.evaluation.report import Row
from audiolm_jax.evaluation.statistics import mean_estimate
from audiolm_jax.evaluation.suites import SuiteResult

IN_VOCABULARY = "in vocabulary"
_BANDS = ((1, "oov"), (6, "1-5"), (21, "6-20"), (101, "21-100"))
_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


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


@dataclasses.dataclass(frozen=True)
class Likelihood:
  """Of one sound: log probability of its target tokens in nats, and how many there are."""

  total: float
  tokens: int

  def value(self, normalised: bool) -> float:
    """Of the whole, or of a token."""
    return self.total / self.tokens if normalised else self.total


def likelihood_suite(
  bundle: Any,
  pairs: Sequence[Pair],
  read: Callable[[str], Float[np.ndarray, "samples"]],
  stages: Sequence[str] | None = None,
) -> SuiteResult:
  """How often each stage finds the good one likelier; ties count half.

  Scored with and without division by the number of tokens. Intervals are over pairs, the voices of
  one taken together. What is longer than a stage's crop is scored crop by crop.

  Args:
    read: gives the waveform of a path at the bundle's rate.
    stages: names; None for all that the bundle has.
  Raises:
    DataError: the bundle has no such stage.
  """
  for name in stages or ():
    if name not in bundle.stages:
      raise DataError(f"{bundle.name} has no {name} stage; it has {', '.join(bundle.stages)}")
  chosen = {name: bundle.stages[name] for name in stages or bundle.stages}
  scorers = {name: (stage.spec, stage_scorer(stage)) for name, stage in chosen.items()}
  scores: list[dict[str, tuple[Likelihood, Likelihood]]] = []
  for pair in pairs:
    found = [_likelihoods(bundle, scorers, read(path)) for path in (pair.good, pair.bad)]
    scores.append({name: (found[0][name], found[1][name]) for name in chosen})
  rows = []
  for name in chosen:
    for normalised in (True, False):
      wins = [_win(*score[name], normalised) for score in scores]
      how = "mean over tokens" if normalised else "sum over tokens"
      rows += _rows(f"{name} stage, {how}", pairs, wins)
  details = [
    {"pair": pair._asdict(), "scores": score} for pair, score in zip(pairs, scores, strict=True)
  ]
  return SuiteResult(rows, {"pairs": details})


def _likelihoods(
  bundle: Any, scorers: Mapping[str, Any], waveform: Float[np.ndarray, "samples"]
) -> dict[str, Likelihood]:
  clip = TokenClip(
    id="",
    semantic=np.asarray(bundle.semantic.tokenize_long(waveform)),
    codes=np.asarray(bundle.codec.encode_long(waveform)),
    split="valid",
    speaker=None,
  )
  found = {}
  for name, (spec, score) in scorers.items():
    nats = [score(*crop)[0] for crop in crops(spec, clip, least_seconds=0.0)]
    if not nats:
      raise DataError(f"a sound of {len(waveform)} samples gives the {name} stage nothing to score")
    found[name] = Likelihood(-float(sum(n.sum() for n in nats)), sum(len(n) for n in nats))
  return found


def _win(good: Likelihood, bad: Likelihood, normalised: bool) -> float:
  a, b = good.value(normalised), bad.value(normalised)
  return 0.5 if a == b else float(a > b)


def _rows(figure: str, pairs: Sequence[Pair], wins: Sequence[float]) -> list[Row]:
  """Of all pairs, and of each category."""
  groups: dict[str, dict[str, list[float]]] = {"all": {}}
  for pair, win in zip(pairs, wins, strict=True):
    for category in ("all", *pair.categories):
      groups.setdefault(category, {}).setdefault(pair.id, []).append(win)
  rows = []
  for category in ("all", *sorted(set(groups) - {"all"})):
    means = [float(np.mean(of_pair)) for of_pair in groups[category].values()]
    rows.append(Row("likelihood", f"accuracy, {figure}, {category}", mean_estimate(means)))
  return rows


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
      if name and path.suffix.lower() in _SUFFIXES:
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
  for suffix in ("", *_SUFFIXES):
    if (folder / f"{name}{suffix}").is_file():
      return folder / f"{name}{suffix}"
  return folder / f"{name}.wav"
