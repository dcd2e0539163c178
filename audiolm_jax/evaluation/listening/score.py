"""Statistics of the answers to a listening test, and the number of answers that a test needs."""

import dataclasses
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from audiolm_jax.core import configs, plain_json
from audiolm_jax.core.configs import Json, JsonDict
from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.evaluation.listening.build import HIDDEN_REFERENCE, ListeningTestKind
from audiolm_jax.evaluation.metric import Metric
from audiolm_jax.evaluation.report import Row
from audiolm_jax.evaluation.statistics import Estimate, bootstrap_estimate, exact

RIGHT = Metric("right_answers", "right answers")
PREFERRED = Metric("preferred", "preferred")
P_VALUE = Metric("p_value", "p against one half, two-sided")
RATING = Metric("rating", "rating")
RATING_DIFFERENCE = Metric("rating_difference", "rating difference")

_MARGIN = 0.05  # smallest difference of shares that matters
_POWER = 0.8
_LEAST_REFERENCE, _MOST_MISSED = 90, 0.15  # limits of ITU-R BS.1534-3 to exclude listeners


@dataclasses.dataclass(frozen=True)
class Answers:
  """Answers of one listener.

  Attributes:
    listener: id of the listener.
    by_trial: the answers by the id of the trial.
  """

  listener: str
  by_trial: Json


@dataclasses.dataclass(frozen=True)
class Score:
  """Result of a listening test.

  Attributes:
    rows: measured values.
    sentences: sentences that explain how to interpret the rows.
  """

  rows: list[Row]
  sentences: list[str]


def read_key(path: str | os.PathLike[str]) -> JsonDict:
  """Reads the key of a listening test; the key has the origin of each sound.

  Raises:
    DataError: the file cannot be read or is not a valid key.
  """
  key = _read(path)
  if not isinstance(key, dict) or not {"test", "kind", "trials"} <= set(key):
    raise DataError(f"{path} is no key of a listening test; give the .key.json that build wrote")
  try:
    for field, hint in (("test", str), ("kind", ListeningTestKind), ("trials", Mapping[str, Json])):
      configs.checked(hint, key[field], field)
    for trial, facts in key["trials"].items():
      _check_truth(ListeningTestKind(key["kind"]), facts.get("truth"), f"the truth of {trial}")
    names = {name for facts in key["trials"].values() for name in facts["truth"]}
    if key["kind"] == ListeningTestKind.PREFERENCE and len(names) != 2:
      raise ConfigError(f"{len(names)} systems are compared; there must be two")
  except ConfigError as error:
    raise DataError(f"{path}: {error}; give the .key.json that build wrote") from error
  return key


def read_answers(paths: Sequence[str | os.PathLike[str]], key: Json) -> list[Answers]:
  """Reads the files of answers that listeners downloaded.

  If a listener has several files, the last file replaces the previous files.

  Raises:
    DataError: there are no files; or a file cannot be read, has no answers or an invalid answer, or
      belongs to another test than `key`.
  """
  found: dict[str, Answers] = {}
  for path in paths:
    result = _read(path)
    try:
      if result["test"] != key["test"]:
        raise DataError(f"{path} has answers to another test; give the key of that test")
      by_trial = {
        configs.checked(str, entry["trial"], "trial"): entry["answer"]
        for entry in result["answers"]
      }
      listener = str(configs.checked(str | int, result["listener"], "listener"))
    except (KeyError, TypeError, ConfigError) as error:
      raise DataError(f"{path} has no answers to a listening test") from error
    if not by_trial:
      raise DataError(f"{path} has no answers to a listening test")
    for trial, answer in by_trial.items():
      if trial not in key["trials"] or not _fits(key, trial, answer):
        raise DataError(
          f"{path} has the invalid answer {configs.shown(answer)} to trial {configs.shown(trial)}"
        )
    found[listener] = Answers(listener, by_trial)
  if not found:
    raise DataError("no answers are given")
  return list(found.values())


def score(key: Json, answers: Sequence[Answers]) -> Score:
  """Returns the result of a listening test of any kind.

  Raises:
    DataError: no rating of a mushra test remains after listeners are excluded.
  """
  kind = ListeningTestKind(key["kind"])
  if kind is ListeningTestKind.MUSHRA:
    return _mushra(key, answers)
  return _shares(key, answers, kind)


def wilson_interval(hits: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
  """Returns the confidence interval of the share `hits / count`.

  Source: Wilson, 1927.
  """
  interval = stats.binomtest(hits, count).proportion_ci(confidence, method="wilson")
  return float(interval.low), float(interval.high)


def answers_needed(share: float, against: float = 0.5, power: float = _POWER) -> int:
  """Returns the number of answers that a two-sided test at the 5 % level needs.

  Args:
    share: expected share.
    against: share under the null hypothesis.
    power: probability that the test finds the difference between the two shares.

  Raises:
    ValueError: the shares are equal.

  Source: the normal approximation, as in Fleiss, Statistical Methods for Rates and Proportions.
  """
  if share == against:
    raise ValueError(f"both shares are {share}; no number of answers distinguishes them")
  alpha, beta = stats.norm.ppf(0.975), stats.norm.ppf(power)
  spread = alpha * math.sqrt(against * (1 - against)) + beta * math.sqrt(share * (1 - share))
  return math.ceil((spread / (share - against)) ** 2)


def answers_for_margin(margin: float = _MARGIN) -> int:
  """Returns the number of independent answers that a 95 % interval of 0.5 ± `margin` needs."""
  return math.ceil(0.25 * (stats.norm.ppf(0.975) / margin) ** 2)


def _shares(key: Json, answers: Sequence[Answers], kind: ListeningTestKind) -> Score:
  """Returns the result of a test whose answers are hits or misses.

  A hit is a right answer. In a preference test, a hit is an answer for the system whose name is
  first in alphabetical order.
  """
  trials = key["trials"]
  if kind is ListeningTestKind.PREFERENCE:
    names = sorted({name for trial in trials.values() for name in trial["truth"]})
    metric, of, wanted = PREFERRED, f"{names[0]} to {names[1]}", names[0]
  else:
    names, metric, of, wanted = ["real", "synthetic"], RIGHT, "all clips", ""

  def hit(trial: str, answer: str) -> float:
    truth = trials[trial]["truth"]
    return float(
      truth[int(answer)] == wanted if kind is ListeningTestKind.PREFERENCE else truth[0] == answer
    )

  table = [(a.listener, trial, hit(trial, x)) for a in answers for trial, x in a.by_trial.items()]
  hits = [h for _, _, h in table]
  share = _wilson_row(metric, of, hits)
  rows = [share, _resampled(metric, f"{of}, resampled over listeners and trials", table)]
  if kind is ListeningTestKind.REAL_OR_SYNTHETIC:
    for truth in names:
      of_kind = [h for _, trial, h in table if trials[trial]["truth"][0] == truth]
      rows += [_wilson_row(RIGHT, f"{truth} clips", of_kind)] if of_kind else []
  p: Any = stats.binomtest(int(sum(hits)), len(hits)).pvalue
  rows.append(Row(P_VALUE, exact(p, len(hits))))
  return Score(rows, _sentences(share.estimate, p))


def _wilson_row(metric: Metric, of: str, hits: Sequence[float]) -> Row:
  ends = wilson_interval(int(sum(hits)), len(hits))
  return Row(metric, Estimate(float(np.mean(hits)), *ends, len(hits)), of)


def _sentences(share: Estimate, p: float) -> list[str]:
  sentences = [
    f"{share.n} answers: {share.value:.1%}, interval {share.low:.1%} to {share.high:.1%}, "
    f"two-sided p = {p:.3f}."
  ]
  if p >= 0.05:
    sentences.append(
      "No difference from one half was found, which does not show that there is none: "
      f"{answers_for_margin()} independent answers make the interval as narrow as "
      f"{_MARGIN:.0%} to either side, and {answers_needed(0.5 + _MARGIN)} find a share of "
      f"{0.5 + _MARGIN:.0%} four times out of five."
    )
  else:
    sentences.append(
      f"{answers_needed(share.value)} answers find such a difference four times out of five."
    )
  sentences.append(
    "The interval assumes independent answers; those of one listener or clip are not independent."
  )
  return sentences


def _mushra(key: Json, answers: Sequence[Answers]) -> Score:
  ratings = [
    (a.listener, trial, key["trials"][trial]["truth"][int(i)], float(value))
    for a in answers
    for trial, given in a.by_trial.items()
    for i, value in given.items()
  ]
  excluded = []
  for listener in sorted({r[0] for r in ratings}):
    own = [r[3] for r in ratings if r[0] == listener and r[2] == HIDDEN_REFERENCE]
    if own and np.mean(np.array(own) < _LEAST_REFERENCE) > _MOST_MISSED:
      excluded.append(listener)
  kept = [r for r in ratings if r[0] not in excluded]
  if not kept:
    raise DataError(
      f"every listener rated the hidden reference below {_LEAST_REFERENCE} too often to count; "
      "collect more answers"
    )
  systems = sorted(
    {r[2] for r in kept}, key=lambda name: -np.mean([r[3] for r in kept if r[2] == name])
  )
  rows = [
    _resampled(RATING, name, [(r[0], r[1], r[3]) for r in kept if r[2] == name]) for name in systems
  ]
  by_pair = {(r[0], r[1], r[2]): r[3] for r in kept}
  for better, worse in itertools.pairwise(systems):
    pairs = [
      (listener, trial, by_pair[listener, trial, better] - by_pair[listener, trial, worse])
      for listener, trial, name in by_pair
      if name == better and (listener, trial, worse) in by_pair
    ]
    differences = np.array([d for _, _, d in pairs])
    row = _resampled(RATING_DIFFERENCE, f"{better} over {worse}", pairs)
    if differences.any():
      found: Any = stats.wilcoxon(differences)
      row = dataclasses.replace(row, note=f"two-sided Wilcoxon p = {found.pvalue:.3g}")
    rows.append(row)
  counted = len({r[0] for r in kept})
  sentences = [f"{counted} listeners counted."]
  if excluded:
    sentences.append(
      f"Excluded, for rating the hidden reference below {_LEAST_REFERENCE} in more than "
      f"{_MOST_MISSED:.0%} of their trials: {', '.join(excluded)}."
    )
  return Score(rows, sentences)


def _resampled(metric: Metric, of: str, table: Sequence[tuple[str, str, float]]) -> Row:
  """Returns the mean of the values in a table with the columns listener, trial and value.

  One interval is computed by resampling the listeners, another interval by resampling the trials. A
  listener or trial is drawn together with all of its values. The row has the wider interval.
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
  return Row(metric, widest, of)


def _check_truth(kind: ListeningTestKind, truth: object, name: str) -> None:
  """Raises `ConfigError` if the origins of a trial's sounds are not valid for the kind of test."""
  given = configs.checked(tuple[str, ...], truth, name)
  known = kind is not ListeningTestKind.REAL_OR_SYNTHETIC or set(given) <= {"real", "synthetic"}
  if not given or not known:
    raise ConfigError(f"{name} is {configs.shown(truth)}")


def _fits(key: Json, trial: str, answer: object) -> bool:
  truth = key["trials"][trial]["truth"]
  kind = ListeningTestKind(key["kind"])
  if kind is ListeningTestKind.REAL_OR_SYNTHETIC:
    return answer in ("real", "synthetic")
  if kind is ListeningTestKind.PREFERENCE:
    return answer in [str(i) for i in range(len(truth))]
  if not isinstance(answer, dict) or not answer:
    return False
  return all(
    name in [str(i) for i in range(len(truth))]
    and type(value) in (int, float)  # bool is a subclass of int
    and 0 <= value <= 100
    for name, value in answer.items()
  )


def _read(path: str | os.PathLike[str]) -> Any:
  try:
    return plain_json.parse(Path(path).read_bytes())
  except (OSError, ValueError) as error:
    raise DataError(f"{path} cannot be read: {error}") from error
