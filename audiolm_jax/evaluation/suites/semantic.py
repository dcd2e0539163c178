"""Whether semantic tokens follow the sentence rather than the voice."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation import tokens as token_metrics
from audiolm_jax.evaluation.clips import EvalClip, load_pieces
from audiolm_jax.evaluation.codec import code_perplexity
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.report import Better, Row, SuiteResult, exact, left_out
from audiolm_jax.evaluation.statistics import bootstrap_estimate, mean_estimate
from audiolm_jax.lm.tokens import collapse_repeats


def run(bundle: Any, options: Options) -> SuiteResult:
  """On the split `probe`; music has none."""
  try:
    probes = load_pieces(options.probe_data or options.data, "probe", bundle.sample_rate)
  except DataError as error:
    if options.domain is Domain.SPEECH:
      raise
    return left_out(str(error))
  return semantic_suite(bundle.semantic.tokenize_long, probes, bundle.semantic.spec.num_clusters)


def semantic_suite(
  tokenize: token_metrics.Tokenize,
  probes: Sequence[EvalClip],
  num_clusters: int,
) -> SuiteResult:
  """Whether tokens follow the sentence rather than the voice.

  Args:
    probes: the same sentences by several voices; `sentence` and `speaker` are given.
  """
  readings = [
    token_metrics.Reading(clip.sentence, clip.speaker, tokenize(clip.waveform))
    for clip in probes
    if clip.sentence is not None and clip.speaker is not None
  ]
  report = token_metrics.triple_accuracy(readings)
  counts = np.stack([np.bincount(r.tokens, minlength=num_clusters) for r in readings])
  perplexity = bootstrap_estimate(lambda rows: code_perplexity(counts[rows].sum(0)), len(counts))
  kept = mean_estimate([len(collapse_repeats(r.tokens)) / len(r.tokens) for r in readings])
  figure = "same sentence by another voice nearer than another by the same voice"
  rows = [
    Row("semantic", figure, report.accuracy, floor=0.70, aim=0.95),
    Row("semantic", "token distance, same sentence", exact(report.same_sentence), Better.LOWER),
    Row("semantic", "token distance, same voice", exact(report.same_speaker)),
    Row("semantic", f"cluster perplexity, of {num_clusters}", perplexity),
    Row("semantic", "share of tokens left when repeats collapse", kept),
  ]
  return SuiteResult(rows, {"triples": report})
