"""How often the likelier of two sounds is the right one."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from audiolm_jax.core.errors import DataError
from audiolm_jax.core.streams import CODES, SEMANTIC
from audiolm_jax.data.token_shards import TokenClip
from audiolm_jax.evaluation.likelihood import autoregressive, crops, stage_scorer
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.pairs import Pair, read_pairs
from audiolm_jax.evaluation.report import Row, SuiteResult, left_out
from audiolm_jax.evaluation.statistics import mean_estimate
from audiolm_jax.io import audio


def run(bundle: Any, options: Options) -> SuiteResult:
  """On the pairs that are given."""
  if not options.pairs:
    return left_out("no --pairs are given")
  return likelihood_suite(
    bundle,
    read_pairs(options.pairs),
    lambda path: audio.load_audio(path, bundle.sample_rate),
    options.stages or None,
  )


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
  scorers = {name: (autoregressive(stage), stage_scorer(stage)) for name, stage in chosen.items()}
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
    streams={
      SEMANTIC: np.asarray(bundle.semantic.tokenize_long(waveform)),
      CODES: np.asarray(bundle.codec.encode_long(waveform)),
    },
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
