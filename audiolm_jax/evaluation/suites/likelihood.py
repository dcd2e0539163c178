"""Measures how often the good sound of a pair has the higher likelihood under a stage."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax.bundles import Bundle
from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation.likelihood import autoregressive, crops, stage_scorer
from audiolm_jax.evaluation.metric import Metric
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.pairs import SoundPair, read_pairs
from audiolm_jax.evaluation.report import Row, SuiteResult, row_of
from audiolm_jax.evaluation.suites.tokens import encode_clip
from audiolm_jax.io import audio

ACCURACY_BY_MEAN = Metric("pair_accuracy_mean", "accuracy by the mean over tokens")
ACCURACY_BY_SUM = Metric("pair_accuracy_sum", "accuracy by the sum over tokens")


def run(bundle: Bundle, options: Options) -> SuiteResult:
  """Measures the bundle's stages on pairs of sounds."""
  return likelihood_suite(
    bundle,
    read_pairs(str(options.pairs)),
    lambda path: audio.load_audio(path, bundle.sample_rate),
    options.stages or None,
  )


@dataclasses.dataclass(frozen=True)
class Likelihood:
  """Likelihood of one sound.

  Attributes:
    total: sum of the log probabilities of the target tokens, in nats.
    tokens: number of target tokens.
  """

  total: float
  tokens: int

  @property
  def mean(self) -> float:
    """Mean log probability per target token, in nats."""
    return self.total / self.tokens


SoundScorer = Callable[[Float[np.ndarray, "samples"]], dict[str, Likelihood]]


def likelihood_suite(
  bundle: Bundle,
  pairs: Sequence[SoundPair],
  read: Callable[[str], Float[np.ndarray, "samples"]],
  stages: Sequence[str] | None = None,
) -> SuiteResult:
  """Measures how often the good sound of a pair has the higher likelihood; ties count half.

  Likelihoods are compared with and without division by the number of tokens. Pairs with equal ids,
  such as pairs in several voices, count as one observation. Sounds longer than a stage's crop are
  scored crop by crop.

  Args:
    bundle: bundle with the stages, and with the tokenizers that encode the sounds.
    pairs: the pairs.
    read: function that returns the waveform of a path at the bundle's sample rate.
    stages: names of the stages to measure; None for all stages.

  Raises:
    DataError: the bundle lacks a stage of `stages`, a stage has no likelihoods, or a sound is too
      short for a stage.
  """
  chosen = tuple(stages or bundle.stages)
  score = sound_scorer(bundle, chosen)
  scores: list[dict[str, tuple[Likelihood, Likelihood]]] = []
  for pair in pairs:
    good, bad = (score(read(path)) for path in (pair.good, pair.bad))
    scores.append({name: (good[name], bad[name]) for name in chosen})
  rows = []
  for name in chosen:
    found = [of_pair[name] for of_pair in scores]
    means = [_win(good.mean, bad.mean) for good, bad in found]
    sums = [_win(good.total, bad.total) for good, bad in found]
    rows += _rows(ACCURACY_BY_MEAN, name, pairs, means)
    rows += _rows(ACCURACY_BY_SUM, name, pairs, sums)
  details = [
    {"pair": pair._asdict(), "scores": found} for pair, found in zip(pairs, scores, strict=True)
  ]
  return SuiteResult(rows, {"pairs": details})


def sound_scorer(bundle: Bundle, stages: Sequence[str]) -> SoundScorer:
  """Returns a function that computes the likelihood of a waveform under each of the given stages.

  The function receives a waveform at the bundle's sample rate. It raises `DataError` if the
  waveform is too short for a stage.

  Raises:
    DataError: the bundle lacks a stage of `stages`, or a stage has no likelihoods.
  """
  for name in stages:
    if name not in bundle.stages:
      raise DataError(f"{bundle.name} has no {name} stage; it has {', '.join(bundle.stages)}")
  chosen = {name: bundle.stages[name] for name in stages}
  scorers = {name: (autoregressive(stage), stage_scorer(stage)) for name, stage in chosen.items()}

  def score(waveform: Float[np.ndarray, "samples"]) -> dict[str, Likelihood]:
    clip = encode_clip(bundle, waveform)
    found = {}
    for name, (spec, nats_of) in scorers.items():
      nats = [nats_of(*crop)[0] for crop in crops(spec, clip, least_seconds=0.0)]
      if not nats:
        raise DataError(
          f"a sound of {len(waveform)} samples is too short for the {name} stage, which has no "
          "token to score; remove the pair"
        )
      found[name] = Likelihood(-float(sum(n.sum() for n in nats)), sum(len(n) for n in nats))
    return found

  return score


def _win(good: float, bad: float) -> float:
  return 0.5 if good == bad else float(good > bad)


def _rows(
  metric: Metric, stage: str, pairs: Sequence[SoundPair], wins: Sequence[float]
) -> list[Row]:
  """Returns the accuracy over all pairs, and over the pairs of each category."""
  groups: dict[str, dict[str, list[float]]] = {"all": {}}
  for pair, win in zip(pairs, wins, strict=True):
    for category in ("all", *pair.categories):
      groups.setdefault(category, {}).setdefault(pair.id, []).append(win)
  return [
    row_of(
      metric,
      [float(np.mean(of_pair)) for of_pair in groups[category].values()],
      f"{stage} stage, {category}",
    )
    for category in ("all", *sorted(set(groups) - {"all"}))
  ]
