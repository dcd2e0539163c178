"""Measures whether semantic tokens depend on the sentence rather than on the voice."""

from collections.abc import Sequence

import numpy as np

from audiolm_jax.bundles import Bundle
from audiolm_jax.evaluation.clips import EvalClip, load_pieces
from audiolm_jax.evaluation.codec import code_perplexity
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import Row, SuiteResult, row_of
from audiolm_jax.evaluation.statistics import bootstrap_estimate, exact
from audiolm_jax.evaluation.tokens import Reading, Tokenize, triple_accuracy
from audiolm_jax.lm.tokens import collapse_repeats

TRIPLES = Metric(
  "triple_accuracy", "same sentence by another voice nearer than another by the same voice"
)
SAME_SENTENCE = Metric(
  "token_distance_same_sentence", "token distance, same sentence", Better.LOWER
)
SAME_VOICE = Metric("token_distance_same_voice", "token distance, same voice")
PERPLEXITY = Metric("cluster_perplexity", "cluster perplexity")
TOKENS_LEFT = Metric("collapsed_share", "share of tokens left when repeats collapse")


def run(bundle: Bundle, options: Options) -> SuiteResult:
  """Measures the bundle's tokenizer on the split `probe`."""
  probes = load_pieces(options.source_of("probe"), "probe", bundle.sample_rate)
  return semantic_suite(bundle.semantic.tokenize_long, probes, bundle.semantic.spec.num_clusters)


def semantic_suite(
  tokenize: Tokenize, probes: Sequence[EvalClip], num_clusters: int
) -> SuiteResult:
  """Compares token distances within one sentence with token distances within one voice.

  Args:
    tokenize: function that returns the semantic tokens of a waveform.
    probes: clips of the same sentences by several voices; clips without `sentence` or `speaker` are
      ignored.
    num_clusters: size of the semantic vocabulary.

  Raises:
    DataError: the probes have no triple; see `TripleReport` in `evaluation.tokens`.
  """
  readings = [
    Reading(clip.sentence, clip.speaker, tokenize(clip.waveform))
    for clip in probes
    if clip.sentence is not None and clip.speaker is not None
  ]
  report = triple_accuracy(readings)
  counts = np.stack([np.bincount(r.tokens, minlength=num_clusters) for r in readings])
  perplexity = bootstrap_estimate(lambda rows: code_perplexity(counts[rows].sum(0)), len(counts))
  kept = [len(collapse_repeats(r.tokens)) / len(r.tokens) for r in readings]
  rows = [
    Row(TRIPLES, report.accuracy, floor=0.70, aim=0.95),
    Row(SAME_SENTENCE, exact(report.same_sentence)),
    Row(SAME_VOICE, exact(report.same_speaker)),
    Row(PERPLEXITY, perplexity, f"of {num_clusters}"),
    row_of(TOKENS_LEFT, kept),
  ]
  return SuiteResult(rows, {"triples": report})
