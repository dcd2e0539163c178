"""How well each stage predicts its tokens, beside n-gram tables; the bit rates that follow."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from audiolm_jax.core.errors import UserError
from audiolm_jax.core.streams import CODES, SEMANTIC
from audiolm_jax.data.manifest import clips_of_split, list_clips, read_clip
from audiolm_jax.data.token_shards import TokenClip
from audiolm_jax.data.token_store import TokenStore
from audiolm_jax.evaluation.likelihood import evaluate_stage
from audiolm_jax.evaluation.options import Options
from audiolm_jax.evaluation.report import Better, Row, SuiteResult, exact
from audiolm_jax.lm.stage import Stage


def run(bundle: Any, options: Options) -> SuiteResult:
  """On the token store, or on the splits `train` and `valid` as the bundle encodes them."""
  if not bundle.stages:
    raise UserError(f"bundle {bundle.name} has no stages; leave out the suite tokens")
  if options.token_store:
    store = TokenStore(options.token_store, bundle.token_hash)
    train, valid = store.clips("train"), store.clips("valid")
  else:
    train = _tokenize(bundle, options.train_data or options.data, "train")
    valid = _tokenize(bundle, options.data, "valid")
  return tokens_suite(list(bundle.stages.values()), train, valid)


def tokens_suite(
  stages: Sequence[Stage], train: Sequence[TokenClip], valid: Sequence[TokenClip]
) -> SuiteResult:
  """Nats per token of each stage beside tables fitted on its training tokens, and bit rates."""
  rows, details = [], {}
  for stage in stages:
    report = evaluate_stage(stage, train, valid)
    name = stage.spec.name
    tables = report.tables
    rows += [
      Row("tokens", f"{name}: nats/token", report.nats, Better.LOWER),
      Row("tokens", f"{name}: unigram nats/token", exact(tables.unigram, tables.num_targets)),
      Row("tokens", f"{name}: bigram nats/token", exact(tables.bigram, tables.num_targets)),
      Row(
        "tokens",
        f"{name}: bigram with unigram back-off nats/token",
        exact(tables.bigram_backoff, tables.num_targets),
      ),
      Row(
        "tokens",
        f"{name}: share below the better bigram",
        report.below_bigram,
        floor=0.0,
        aim=0.15,
      ),
      Row(
        "tokens",
        f"{name}: bits per second by the stage's probabilities",
        report.bits_per_second,
        Better.LOWER,
        note=f"{report.tokens_per_second:.4g} tokens per second",
      ),
      Row(
        "tokens",
        f"{name}: bits per second of the tokens as they are",
        exact(report.raw_bits_per_second, report.bits_per_second.n),
        note=f"{report.tokens_per_second:.4g} tokens per second",
      ),
    ]
    details[name] = report
  return SuiteResult(rows, details)


def _tokenize(bundle: Any, source: str, split: str) -> list[TokenClip]:
  clips = []
  for clip in clips_of_split(list_clips(source), split):
    waveform = read_clip(clip, bundle.sample_rate)
    semantic, codes = bundle.semantic.tokenize_long(waveform), bundle.codec.encode_long(waveform)
    streams = {SEMANTIC: np.asarray(semantic), CODES: np.asarray(codes)}
    clips.append(TokenClip(clip.id, streams, split, clip.speaker))
  return clips
