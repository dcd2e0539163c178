"""Likelihoods of held-out tokens under a stage, compared with n-gram tables."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from audiolm_jax.core import modules
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.errors import DataError
from audiolm_jax.core.layers import Remat
from audiolm_jax.core.modules import Params
from audiolm_jax.core.streams import CODES, SEMANTIC
from audiolm_jax.data.token_shards import TokenClip
from audiolm_jax.evaluation.ngrams import NgramTable, TableLosses
from audiolm_jax.evaluation.statistics import Estimate, bootstrap_estimate
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.lm.stage import Stage
from audiolm_jax.lm.stages import AutoregressiveSpec, stage_features, stage_sequence
from audiolm_jax.lm.transformer import Transformer, unstack_layers

_LEAST_SECONDS = 0.5

StageScorer = Callable[
  [Int[np.ndarray, " steps"] | None, Int[np.ndarray, "frames q"] | None],
  tuple[np.ndarray, np.ndarray],
]


@dataclasses.dataclass(frozen=True)
class StageReport:
  """Losses and bit rates of a stage on held-out tokens.

  Attributes:
    nats: mean loss in nats per target token; the probabilities are over the ids that are legal at a
      position, and the interval is over clips.
    accuracy: share of targets that are the most probable legal id.
    quantizer_nats: mean loss in nats per target token, for each level; one entry for semantic
      targets.
    tables: losses of unigram and bigram tables on the targets.
    below_bigram: 1 - `nats` / loss of the better bigram table.
    tokens_per_second: targets per second of audio, without the repeats that the stage drops.
    bits_per_second: bit rate of an arithmetic coder that uses the stage's probabilities, per second
      of audio; the interval is over clips.
    raw_bits_per_second: bit rate of a fixed-length code with log2(vocabulary) bits per target, per
      second of audio.
  """

  nats: Estimate
  accuracy: float
  quantizer_nats: list[float]
  tables: TableLosses
  below_bigram: Estimate
  tokens_per_second: float
  bits_per_second: Estimate
  raw_bits_per_second: float


def evaluate_stage(
  stage: Stage, train: Sequence[TokenClip], valid: Sequence[TokenClip]
) -> StageReport:
  """Computes losses of a stage, and of n-gram tables fitted to `train`, on crops of `valid`.

  Args:
    stage: the stage.
    train: clips that the stage was trained on.
    valid: clips that the stage was not trained on.

  Raises:
    DataError: no clip of `valid` is long enough for a crop, a clip lacks tokens that the stage
      needs, or the stage has no likelihoods.
  """
  spec = autoregressive(stage)
  table = NgramTable(
    spec, [stage_sequence(spec, *crop) for clip in train for crop in crops(spec, clip)]
  )
  scored = [clip for clip in valid if next(crops(spec, clip), None) is not None]
  if not scored:
    raise DataError(
      f"no clip has {_LEAST_SECONDS:g} s, the minimum length of a crop of the {spec.name} stage"
    )
  score = stage_scorer(stage)
  quantizers = max(1, spec.num_target_quantizers)
  sums = np.zeros((len(scored), quantizers))
  counts, hits = np.zeros_like(sums), np.zeros_like(sums)
  seconds = np.zeros(len(scored))
  sequences = []
  for row, clip in enumerate(scored):
    for crop in crops(spec, clip):
      nats, hit = score(*crop)
      for level in range(quantizers):
        sums[row, level] += nats[level::quantizers].sum()
        hits[row, level] += hit[level::quantizers].sum()
        counts[row, level] += len(nats[level::quantizers])
      seconds[row] += _seconds(spec, *crop)
      sequences.append(stage_sequence(spec, *crop))
  tables = table.losses(sequences)
  best = min(tables.bigram, tables.bigram_backoff)
  nats = bootstrap_estimate(lambda rows: sums[rows].sum() / counts[rows].sum(), len(scored))
  bits = bootstrap_estimate(
    lambda rows: sums[rows].sum() / np.log(2) / seconds[rows].sum(), len(scored)
  )
  tokens_per_second = float(counts.sum() / seconds.sum())
  vocabulary = spec.num_clusters if spec.predicts_semantic else spec.codebook_size
  return StageReport(
    nats=nats,
    accuracy=float(hits.sum() / counts.sum()),
    quantizer_nats=[float(n) for n in sums.sum(0) / counts.sum(0)],
    tables=tables,
    below_bigram=nats.mapped(lambda value: 1 - value / best),
    tokens_per_second=tokens_per_second,
    bits_per_second=bits,
    raw_bits_per_second=tokens_per_second * float(np.log2(vocabulary)),
  )


def crops(
  spec: AutoregressiveSpec, clip: TokenClip, least_seconds: float = _LEAST_SECONDS
) -> Iterator[tuple[Int[np.ndarray, "_steps"] | None, Int[np.ndarray, "_frames q"] | None]]:
  """Yields the semantic tokens and the codes of consecutive crops of a clip.

  The semantic tokens or the codes are None if the stage does not use them.

  Args:
    spec: spec of the stage, which determines the length of a crop.
    clip: tokens of the clip.
    least_seconds: minimum length of the last crop in seconds.

  Raises:
    DataError: the clip lacks tokens that the stage needs.
  """
  count = 0
  semantic = codes = None
  if spec.uses_semantic:
    semantic = np.asarray(_needed(clip.streams.get(SEMANTIC), clip, spec), np.int32)
    count = _pieces(len(semantic), spec.crop_steps, least_seconds * spec.semantic_rate)
  if not spec.predicts_semantic:
    codes = np.asarray(_needed(clip.streams.get(CODES), clip, spec), np.int32)
    pieces = _pieces(len(codes), spec.crop_frames, least_seconds * spec.frame_rate)
    count = min(count, pieces) if spec.uses_semantic else pieces
  for i in range(count):
    steps = slice(i * spec.crop_steps, (i + 1) * spec.crop_steps)
    frames = slice(i * spec.crop_frames, (i + 1) * spec.crop_frames)
    yield (
      None if semantic is None else semantic[steps],
      None if codes is None else codes[frames],
    )


def autoregressive(stage: Stage) -> AutoregressiveSpec:
  """Returns the spec of an autoregressive stage, whose tokens have conditional probabilities.

  Raises:
    DataError: the stage is not autoregressive.
  """
  if not isinstance(stage.spec, AutoregressiveSpec):
    raise DataError(
      f"the {stage.spec.name} stage is of the kind {stage.spec.kind}, which has no likelihoods; "
      "exclude the stage"
    )
  return stage.spec


def stage_scorer(stage: Stage) -> StageScorer:
  """Returns a function that computes the loss of each target in one crop.

  The function receives semantic tokens and codes as `crops` yields them. For each target, it
  returns the loss in nats and whether the target is the most probable id. Only the ids that are
  legal at a position have a probability.

  Raises:
    DataError: the stage is not autoregressive.
  """
  spec = autoregressive(stage)
  config = dataclasses.replace(stage.config, scan_layers=False, remat=Remat.NONE, dtype="float32")
  params = jax.tree.map(jnp.asarray, unstack_layers(stage.params))

  def score(semantic, codes):
    features = stage_features(spec, semantic, codes)
    targets = np.flatnonzero(features["decoder_loss_weights"])
    nats, hits = _score(config, spec, params, features, jnp.int32(targets[0]))
    return np.asarray(nats)[: len(targets)], np.asarray(hits)[: len(targets)]

  return score


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score(
  config: TransformerConfig,
  spec: AutoregressiveSpec,
  params: Params,
  features: dict[str, Int[Array, "_length"]],
  start: Int[Array, ""],
) -> tuple[Float[Array, " targets"], Bool[Array, " targets"]]:
  model = Transformer(config, spec.layout.vocab_size)
  tokens, frames = (features[f"decoder_{n}"][None] for n in ("input_tokens", "frame_ids"))
  frame_ids = frames if config.num_frame_embeddings else None
  hidden = modules.apply(model, params, tokens, frame_ids, method="hidden")[0]
  # The targets follow the source tokens, so each row has all levels of one frame; padding is last.
  length = spec.max_target_length
  hidden, targets = (
    jax.lax.dynamic_slice_in_dim(jnp.pad(a, [(0, length)] + [(0, 0)] * (a.ndim - 1)), start, length)
    for a in (hidden, features["decoder_target_tokens"])
  )
  quantizers = max(1, spec.num_target_quantizers)
  legal = spec.layout.legal_range(0, spec.first_target_quantizer, spec.num_target_quantizers)
  rows = hidden.reshape(1, -1, quantizers, hidden.shape[-1])
  logits = modules.apply(model, params, rows, legal.start, legal.size, method="codebook_logits")[0]
  ids = targets.reshape(-1, quantizers) - legal.start - jnp.arange(quantizers) * legal.size
  ids = jnp.clip(ids, 0, legal.size - 1)
  chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[..., None], axis=-1)[..., 0]
  return -chosen.reshape(-1), (logits.argmax(-1) == ids).reshape(-1)


def _needed(tokens: np.ndarray | None, clip: TokenClip, spec: AutoregressiveSpec) -> np.ndarray:
  if tokens is None:
    raise DataError(f"clip {clip.id} has no tokens of a kind that the {spec.name} stage needs")
  return tokens


def _seconds(
  spec: AutoregressiveSpec, semantic: np.ndarray | None, codes: np.ndarray | None
) -> float:
  """Returns the length of a crop in seconds, from its codes or else from its semantic tokens."""
  if codes is not None:
    return len(codes) / spec.frame_rate
  return len(semantic if semantic is not None else ()) / spec.semantic_rate


def _pieces(length: int, crop: int, least: float) -> int:
  whole, rest = divmod(length, crop)
  return whole + (rest >= max(1, least))
