"""What the answers of a listening test show, and how many more it would take."""

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation.listening.build import HIDDEN_REFERENCE, Kind
from audiolm_jax.evaluation.report import Row, exact
from audiolm_jax.evaluation.statistics import Estimate, bootstrap_estimate

_MARGIN = 0.05  # what counts as a difference of shares worth speaking of
_POWER = 0.8
_LEAST_REFERENCE, _MOST_MISSED = 90, 0.15  # of ITU-R BS.1534-3, for listeners who are left out


@dataclasses.dataclass(frozen=True)
class Answers:
  """Of one listener: an answer for each trial."""

  listener: str
  by_trial: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Score:
  """Rows for a table, and sentences on what they mean."""

  rows: list[Row]
  sentences: list[str]


def read_key(path: str | os.PathLike[str]) -> dict[str, Any]:
  """The key that was written with a test.

  Raises:
    DataError: it is none.
  """
  key = _read(path)
  if not isinstance(key, dict) or not {"test", "kind", "trials"} <= set(key):
    raise DataError(f"{path} is no key of a listening test")
  return key


def read_answers(paths: Sequence[str | os.PathLike[str]], key: Mapping[str, Any]) -> list[Answers]:
  """What listeners downloaded; a listener who is there twice counts with the last file.

  Raises:
    DataError: a file that is none, of another test, or with an answer that cannot be.
  """
  found: dict[str, Answers] = {}
  for path in paths:
    result = _read(path)
    try:
      if result["test"] != key["test"]:
        raise DataError(f"{path} has answers to another test than the key")
      by_trial = {entry["trial"]: entry["answer"] for entry in result["answers"]}
      listener = str(result["listener"])
    except (KeyError, TypeError) as error:
      raise DataError(f"{path} holds no answers to a listening test") from error
    for trial, answer in by_trial.items():
      if trial not in key["trials"] or not _fits(key, trial, answer):
        raise DataError(f"{path} has the answer {answer!r} to trial {trial}, which cannot be")
    found[listener] = Answers(listener, by_trial)
  if not found:
    raise DataError("no answers are given")
  return list(found.values())


def score(key: Mapping[str, Any], answers: Sequence[Answers]) -> Score:
  """The table of a test of any kind."""
  kind = Kind(key["kind"])
  if kind is Kind.MUSHRA:
    return _mushra(key, answers)
  return _shares(key, answers, kind)


def wilson_interval(hits: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
  """Interval of a share. Source: Wilson, 1927."""
  interval = stats.binomtest(hits, count).proportion_ci(confidence, method="wilson")
  return float(interval.low), float(interval.high)


def answers_needed(share: float, against: float = 0.5, power: float = _POWER) -> int:
  """How many independent answers tell one share from another, two-sided at 5 %.

  Source: the normal approximation, as in Fleiss, Statistical Methods for Rates and Proportions.
  """
  if share == against:
    raise ValueError("no number of answers tells a share from itself")
  alpha, beta = stats.norm.ppf(0.975), stats.norm.ppf(power)
  spread = alpha * math.sqrt(against * (1 - against)) + beta * math.sqrt(share * (1 - share))
  return math.ceil((spread / (share - against)) ** 2)


def answers_for_margin(margin: float = _MARGIN) -> int:
  """How many independent answers make the interval of a share near one half this narrow."""
  return math.ceil(0.25 * (stats.norm.ppf(0.975) / margin) ** 2)


def _shares(key: Mapping[str, Any], answers: Sequence[Answers], kind: Kind) -> Score:
  """Right answers, or answers for the first of two systems."""
  trials = key["trials"]
  if kind is Kind.PREFERENCE:
    names = sorted({name for trial in trials.values() for name in trial["truth"]})
    asked, wanted = f"{names[0]} preferred to {names[1]}", names[0]
  else:
    names, asked, wanted = ["real", "synthetic"], "right answers", ""

  def hit(trial: str, answer: str) -> float:
    truth = trials[trial]["truth"]
    return float(truth[int(answer)] == wanted if kind is Kind.PREFERENCE else truth[0] == answer)

  table = [(a.listener, trial, hit(trial, x)) for a in answers for trial, x in a.by_trial.items()]
  hits = np.array([h for _, _, h in table])
  low, high = wilson_interval(int(hits.sum()), len(hits))
  rows = [Row("listening", asked, Estimate(float(hits.mean()), low, high, len(hits)))]
  rows.append(_resampled(f"{asked}, resampled over listeners and trials", table))
  if kind is Kind.REAL_OR_SYNTHETIC:
    for truth in names:
      of_kind = np.array([h for _, t, h in table if trials[t]["truth"][0] == truth])
      if len(of_kind):
        ends = wilson_interval(int(of_kind.sum()), len(of_kind))
        figure = f"right answers to {truth} clips"
        rows.append(Row("listening", figure, Estimate(float(of_kind.mean()), *ends, len(of_kind))))
  p: Any = stats.binomtest(int(hits.sum()), len(hits)).pvalue
  rows.append(Row("listening", "p against one half, two-sided", exact(p, len(hits))))
  return Score(rows, _sentences(float(hits.mean()), low, high, len(hits), p))


def _sentences(share: float, low: float, high: float, count: int, p: float) -> list[str]:
  said = [f"{count} answers: {share:.1%}, interval {low:.1%} to {high:.1%}, two-sided p = {p:.3f}."]
  if p >= 0.05:
    said.append(
      "No difference from one half was found, which does not show that there is none: "
      f"{answers_for_margin()} independent answers make the interval as narrow as "
      f"{_MARGIN:.0%} to either side, and {answers_needed(0.5 + _MARGIN)} find a share of "
      f"{0.5 + _MARGIN:.0%} four times out of five."
    )
  else:
    need = answers_needed(share)
    said.append(
      f"To find a difference as large as this one four times out of five takes {need} answers."
    )
  said.append("The interval takes answers as independent; those of one listener or clip are not.")
  return said


def _mushra(key: Mapping[str, Any], answers: Sequence[Answers]) -> Score:
  ratings = [
    (a.listener, trial, key["trials"][trial]["truth"][int(i)], float(value))
    for a in answers
    for trial, given in a.by_trial.items()
    for i, value in given.items()
  ]
  left_out = []
  for listener in sorted({r[0] for r in ratings}):
    own = [r[3] for r in ratings if r[0] == listener and r[2] == HIDDEN_REFERENCE]
    if own and np.mean(np.array(own) < _LEAST_REFERENCE) > _MOST_MISSED:
      left_out.append(listener)
  kept = [r for r in ratings if r[0] not in left_out]
  if not kept:
    raise DataError(
      f"every listener rated the hidden reference below {_LEAST_REFERENCE} too often to be counted"
    )
  systems = sorted(
    {r[2] for r in kept}, key=lambda name: -np.mean([r[3] for r in kept if r[2] == name])
  )
  rows = [
    _resampled(f"rating of {name}", [(r[0], r[1], r[3]) for r in kept if r[2] == name])
    for name in systems
  ]
  by_pair = {(r[0], r[1], r[2]): r[3] for r in kept}
  for better, worse in itertools.pairwise(systems):
    pairs = [
      (listener, trial, by_pair[listener, trial, better] - by_pair[listener, trial, worse])
      for listener, trial, name in by_pair
      if name == better and (listener, trial, worse) in by_pair
    ]
    differences = np.array([d for _, _, d in pairs])
    row = _resampled(f"{better} over {worse}", pairs)
    if differences.any():
      found: Any = stats.wilcoxon(differences)
      row = dataclasses.replace(row, note=f"two-sided Wilcoxon p = {found.pvalue:.3g}")
    rows.append(row)
  counted = len({r[0] for r in kept})
  sentences = [f"{counted} listeners counted."]
  if left_out:
    sentences.append(
      f"Left out, for rating the hidden reference below {_LEAST_REFERENCE} in more than "
      f"{_MOST_MISSED:.0%} of their trials: {', '.join(left_out)}."
    )
  return Score(rows, sentences)


def _resampled(figure: str, table: Sequence[tuple[str, str, float]]) -> Row:
  """Mean of values by listener and trial, with an interval over whichever of them vary more.

  Listeners and trials are drawn anew, each with all of its values; of the two intervals the wider
  one is given.
  """
  estimates = []
  for axis in (0, 1):
    groups: dict[str, list[float]] = {}
    for row in table:
      groups.setdefault(str(row[axis]), []).append(row[2])
    sums = np.array([(sum(values), len(values)) for values in groups.values()])
    estimates.append(
      bootstrap_estimate(
        lambda drawn, s=sums: float(s[drawn, 0].sum() / s[drawn, 1].sum()),
        len(sums),
        reflected=False,
      )
    )
  widest = max(estimates, key=lambda e: e.high - e.low)
  return Row("listening", figure, widest)


def _fits(key: Mapping[str, Any], trial: str, answer: Any) -> bool:
  truth = key["trials"][trial]["truth"]
  kind = Kind(key["kind"])
  if kind is Kind.REAL_OR_SYNTHETIC:
    return answer in ("real", "synthetic")
  if kind is Kind.PREFERENCE:
    return answer in [str(i) for i in range(len(truth))]
  return isinstance(answer, dict) and all(
    name in [str(i) for i in range(len(truth))]
    and isinstance(value, int | float)
    and 0 <= value <= 100
    for name, value in answer.items()
  )


def _read(path: str | os.PathLike[str]) -> Any:
  try:
    return json.loads(Path(path).read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise DataError(f"{path} cannot be read: {error}") from error
