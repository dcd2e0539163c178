"""Measures losses and bit rates of stages, and the losses of n-gram tables for comparison."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax.bundles import Bundle
from audiolm_jax.core.streams import CODES, SEMANTIC
from audiolm_jax.data.manifest import clips_of_split, list_clips, read_clip
from audiolm_jax.data.token_shards import TokenClip
from audiolm_jax.data.token_store import TokenStore
from audiolm_jax.evaluation.likelihood import evaluate_stage
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import Row, SuiteResult
from audiolm_jax.evaluation.statistics import exact
from audiolm_jax.lm.stage import Stage

NATS = Metric("nats_per_token", "nats per token", Better.LOWER)
UNIGRAM = Metric("unigram_nats", "nats per token by unigram")
BIGRAM = Metric("bigram_nats", "nats per token by bigram")
BACKOFF = Metric("bigram_backoff_nats", "nats per token by bigram with unigram back-off")
BELOW_BIGRAM = Metric("share_below_bigram", "share below the better bigram")
STAGE_BITS = Metric(
  "stage_bits_per_second", "bits per second by the stage's probabilities", Better.LOWER
)
RAW_BITS = Metric("raw_bits_per_second", "bits per second of the tokens as they are")


def run(bundle: Bundle, options: Options) -> SuiteResult:
  """Measures the bundle's stages on the token store, or else on the splits `train` and `valid`."""
  if options.token_store:
    store = TokenStore(options.token_store, bundle.token_hash)
    train, valid = store.clips("train"), store.clips("valid")
  else:
    train, valid = (_tokenize(bundle, options, split) for split in ("train", "valid"))
  return tokens_suite(list(bundle.stages.values()), train, valid)


def tokens_suite(
  stages: Sequence[Stage], train: Sequence[TokenClip], valid: Sequence[TokenClip]
) -> SuiteResult:
  """Measures nats per token and bit rates of each stage.

  Args:
    stages: the stages to measure.
    train: tokens that the stages were trained on; the n-gram tables are fitted to these tokens.
    valid: tokens to predict.

  Raises:
    DataError: see `evaluate_stage`.
  """
  rows, details = [], {}
  for stage in stages:
    name = stage.spec.name
    report = details[name] = evaluate_stage(stage, train, valid)
    tables = report.tables
    note = f"{report.tokens_per_second:.4g} tokens per second"
    rows += [
      Row(NATS, report.nats, name),
      Row(UNIGRAM, exact(tables.unigram, tables.num_targets), name),
      Row(BIGRAM, exact(tables.bigram, tables.num_targets), name),
      Row(BACKOFF, exact(tables.bigram_backoff, tables.num_targets), name),
      Row(BELOW_BIGRAM, report.below_bigram, name, floor=0.0, aim=0.15),
      Row(STAGE_BITS, report.bits_per_second, name, note=note),
      Row(RAW_BITS, exact(report.raw_bits_per_second, report.bits_per_second.n), name, note=note),
    ]
  return SuiteResult(rows, details)


def encode_clip(
  bundle: Bundle,
  waveform: Float[np.ndarray, " samples"],
  name: str = "",
  split: str = "valid",
  speaker: str | None = None,
) -> TokenClip:
  """Returns the semantic tokens and the codes of a clip.

  Args:
    bundle: bundle whose tokenizers encode the clip.
    waveform: samples of any length at the bundle's sample rate.
    name: id of the clip.
    split: split of the clip.
    speaker: speaker of the clip; None if unknown.
  """
  streams = {
    SEMANTIC: np.asarray(bundle.semantic.tokenize_long(waveform)),
    CODES: np.asarray(bundle.codec.encode_long(waveform)),
  }
  return TokenClip(name, streams, split, speaker)


def _tokenize(bundle: Bundle, options: Options, split: str) -> list[TokenClip]:
  return [
    encode_clip(bundle, read_clip(clip, bundle.sample_rate), clip.id, split, clip.speaker)
    for clip in clips_of_split(list_clips(options.source_of(split)), split)
  ]
