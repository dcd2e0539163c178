"""Decoding of the conditioned stage: an encoder pass, then a loop with key/value caches.

    source   t h e SP e n d END     encoded once; keys and values of the source in each layer
    targets  BOS z1 z2 z3 ... END   one loop for all rows, which may end at different steps

As in `loop`, new keys and values are written to a small cache, which is copied into the large cache
once per segment. `jax.random.fold_in` computes the random key of each position from the random key
of its row. So the tokens of a row do not depend on other rows, on padding, or on the number of
calls of `decode`.

The class of a target is its id minus the number of reserved ids; the last class is the end token.
"""

# jax.numpy leaves out the types of some parameters, such as `device`.
# pyright: reportUnknownMemberType=false

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, cast, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Int, Key

from audiolm_jax.core import modules
from audiolm_jax.core.arrays import Array, PyTree
from audiolm_jax.core.modules import Params
from audiolm_jax.io.stored_program import StoredProgram
from audiolm_jax.lm.attention import MASKED, Cache, KeyValues, attend_and_write
from audiolm_jax.lm.blocks import Attend
from audiolm_jax.lm.conditioned import ConditionedConfig, ConditionedSpec
from audiolm_jax.lm.stage import Stage
from audiolm_jax.lm.tokens import BOS, EOS, NUM_RESERVED, PAD
from audiolm_jax.sampling.decoder import BUCKETS, CACHE_BYTES, ready, row_bucket, rows_of
from audiolm_jax.sampling.logits import Controls, SamplingOptions
from audiolm_jax.sampling.loop import SEGMENT
from audiolm_jax.sampling.processors import Context, LegalIds, Processor, draw_legal


@dataclasses.dataclass(frozen=True)
class ConditionedProgram:
  """The static arguments of the compiled functions; hashable.

  Attributes:
    spec: spec of the stage.
    config: shape of the model of the stage.
    processors: processors of the logits, applied in this order.
  """

  spec: ConditionedSpec
  config: ConditionedConfig
  processors: tuple[Processor, ...] = ()

  @property
  def end(self) -> int:
    """The class of the end token; lower classes are targets."""
    return self.spec.target_size

  @property
  def history(self) -> int:
    """Number of earlier tokens that processors receive."""
    return max((p.history for p in self.processors), default=0)


@no_type_check  # fields may also be shapes instead of arrays
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConditionedInputs:
  """The values that are constant during the loop.

  Attributes:
    sources: per layer, keys and values of the sources.
    source_bias: [batch, 1, source], bias of the attention logits: 0 for tokens of the source,
      `MASKED` for padding.
    forced: int32 [batch, steps], classes that replace drawn classes; -1 for no replacement.
    limits: int32 [batch], number of tokens after which each row ends without an end token.
    keys: [batch], random key of each row.
    controls: sampling settings as scalars, such as the temperature.
    arrays: the arrays of each processor.
  """

  sources: tuple[Cache, ...]
  source_bias: Float[Array, "batch 1 source"]
  forced: Int[Array | np.ndarray, "batch steps"]
  limits: Int[Array | np.ndarray, "batch"]
  keys: Key[Array, "batch"]
  controls: Controls
  arrays: tuple[PyTree, ...]


@no_type_check  # fields may also be shapes instead of arrays
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ConditionedState:
  """The values that change during the loop; each call of `decode` donates them.

  Attributes:
    step: int32 scalar, number of tokens per row so far.
    token: int32 [batch], the id of the newest token, which the model has not read yet.
    cache: per layer, keys and values of the targets.
    drawn: int32 [batch, steps], classes of the tokens so far; -1 at later steps.
    recent: int32 [batch, history], the last classes; -1 before the first token.
    ended: bool [batch], whether the end token was drawn or the limit is reached.
    score: float32 [batch], sum of the log-probabilities of the drawn tokens, including the first
      end token but not forced tokens.
  """

  step: Int[Array | np.int32, ""]
  token: Int[Array | np.ndarray, "batch"]
  cache: tuple[Cache, ...]
  drawn: Int[Array | np.ndarray, "batch steps"]
  recent: Int[Array | np.ndarray, "batch history"]
  ended: Bool[Array | np.ndarray, "batch"]
  score: Float[Array | np.ndarray, "batch"]


class _Encoded(NamedTuple):
  """Encoded sources.

  Attributes:
    sources: per layer, keys and values of the sources.
    bias: see `ConditionedInputs.source_bias`.
    empty: per layer, a cache of zeros for the targets.
  """

  sources: tuple[Cache, ...]
  bias: Float[Array, "batch 1 source"]
  empty: tuple[Cache, ...]


def _encode_fn(
  program: ConditionedProgram,
  params: Params,
  source: Int[Array | np.ndarray, "batch source"],
  capacity: int,
) -> _Encoded:
  """Returns the encoded sources, and caches of zeros for `capacity` targets."""
  c = program.config.transformer
  sources = _apply(program, params, jnp.asarray(source), method="source_caches")
  shape = len(source), c.kv_heads, capacity, c.head_size
  empty = tuple(
    KeyValues(jnp.zeros(shape, c.dtype), jnp.zeros(shape, c.dtype)).cached for _ in sources
  )
  return _Encoded(sources, jnp.where(source == PAD, MASKED, 0.0)[:, None], empty)


def _decode_fn(
  program: ConditionedProgram,
  params: Params,
  inputs: ConditionedInputs,
  state: ConditionedState,
  stop: Int[Array, ""],
) -> ConditionedState:
  """Draws tokens until each row has `stop` tokens or all rows have ended."""
  capacity = state.cache[0].length

  def draw_segment(state: ConditionedState) -> ConditionedState:
    begin = jnp.asarray(state.step)
    held = jnp.where(jnp.arange(capacity) < begin, 0.0, MASKED)[None, None]

    def draw_one(carry: tuple[ConditionedState, tuple[Cache, ...]]):
      state, recent = carry
      index = jnp.asarray(state.step) - begin
      written_bias = jnp.where(jnp.arange(SEGMENT) <= index, 0.0, MASKED)[None, None]

      def attend_with(old: Cache, new: Cache) -> Attend:
        def attend(query: Array, key_values: KeyValues) -> tuple[Array, Cache]:
          return attend_and_write(query, key_values, (old, held), (new, written_bias), index)

        return attend

      logits, recent = _apply(
        program,
        params,
        state.token,
        jnp.broadcast_to(state.step, state.token.shape),
        [attend_with(old, new) for old, new in zip(state.cache, recent, strict=True)],
        inputs.sources,
        inputs.source_bias,
        method="decode_step",
      )
      return _chosen(program, inputs, state, logits), recent

    def is_open(carry: tuple[ConditionedState, tuple[Cache, ...]]):
      now = carry[0]
      return (now.step < jnp.minimum(stop, begin + SEGMENT)) & ~now.ended.all()

    empty = tuple(layer.empty(SEGMENT) for layer in state.cache)
    after, recent = lax.while_loop(is_open, draw_one, (state, empty))
    cache = tuple(old.write(new, begin) for old, new in zip(state.cache, recent, strict=True))
    return dataclasses.replace(after, cache=cache)

  return lax.while_loop(lambda s: (s.step < stop) & ~s.ended.all(), draw_segment, state)


def _chosen(
  program: ConditionedProgram,
  inputs: ConditionedInputs,
  state: ConditionedState,
  logits: Float[Array, "batch classes"],
) -> ConditionedState:
  """Draws one token per row from the logits and returns the next state."""
  step = state.step
  # The first token cannot be the end token, because a clip without tokens has no audio.
  is_end = jnp.arange(logits.shape[1]) == program.end
  legal = LegalIds(0, logits.shape[1], ~is_end | (step > 0))
  scores = jax.nn.log_softmax(legal.masked(logits), axis=-1)
  context = None
  if program.processors:
    unknown = jnp.full_like(state.recent[:, :1], -1)
    shown = jnp.concatenate([state.recent, unknown], axis=1)[..., None]
    context = Context(jnp.broadcast_to(step, state.token.shape), 0, shown)
  drawn = draw_legal(legal, logits, jnp.asarray(step), inputs, program.processors, context)
  forced = cast(Array, lax.dynamic_index_in_dim(inputs.forced, step, axis=1, keepdims=False))
  chosen = jnp.where(forced >= 0, forced, drawn)
  gained = jnp.take_along_axis(scores, chosen[:, None], axis=1)[:, 0]
  counts = (forced < 0) & ~state.ended
  return ConditionedState(
    step=step + 1,
    token=jnp.where(chosen == program.end, EOS, chosen + NUM_RESERVED),
    cache=state.cache,
    drawn=cast(Array, lax.dynamic_update_index_in_dim(state.drawn, chosen, step, axis=1)),
    recent=jnp.concatenate([state.recent, chosen[:, None]], axis=1)[:, 1:],
    ended=state.ended | (chosen == program.end) | (step + 1 >= inputs.limits),
    score=state.score + jnp.where(counts, gained, 0.0),
  )


# Compiled once per program, number of rows and bucket of lengths. The state is donated because its
# cache uses most of the memory.
encode = StoredProgram(_encode_fn, static_argnums=(0, 3))
decode = StoredProgram(_decode_fn, static_argnums=(0,), donate_argnums=(3,))


class Drawn(NamedTuple):
  """The tokens of one row of a `Drawing`.

  Attributes:
    tokens: classes of targets, such as semantic tokens; they begin with the prompt.
    ended: whether the end token was drawn or the limit is reached.
    score: mean log-probability of the drawn tokens, including the end token, at temperature 1 and
      without processors; 0 if no token has been drawn.
  """

  tokens: Int[np.ndarray, "_"]
  ended: bool
  score: float


class ConditionedDecoder:
  """Samples from a conditioned stage.

  The constructor unstacks the parameters, casts them and moves them to the device. The computation
  is in float32 on CPU, else in the dtype of the config.

  Args:
    stage: spec, config and parameters.
    cache_bytes: maximum size of the key/value cache per batch, in bytes.
  """

  def __init__(self, stage: Stage, *, cache_bytes: int = CACHE_BYTES):
    self.spec = cast(ConditionedSpec, stage.spec)
    own = "float32" if jax.default_backend() == "cpu" else stage.config.transformer.dtype
    shape = stage.config.shape()
    transformer = dataclasses.replace(shape.transformer, dtype=own)
    self.config = dataclasses.replace(shape, transformer=transformer)
    self.params = ready(self.spec.inference_params(stage.params), own)
    self._cache_bytes = cache_bytes

  def rows_per_drawing(self, steps: int) -> int:
    """Returns the largest number of rows whose caches fit into `cache_bytes`, at least 1.

    Args:
      steps: maximum number of tokens of a row.
    """
    positions = _capacity(steps) + self.spec.source_length
    per_row = positions * self.config.transformer.cache_bytes_per_token
    return max(1, self._cache_bytes // per_row)

  def begin(
    self,
    sources: Sequence[Int[np.ndarray, "_"]],
    prompts: Sequence[Int[np.ndarray, "_"]],
    limits: Sequence[int],
    keys: Key[Array, "rows"],
    options: SamplingOptions | None = None,
  ) -> "Drawing":
    """Encodes the sources and returns a `Drawing` without drawn tokens.

    Args:
      sources: ids of each source, from `ConditionedSpec.source_ids`.
      prompts: classes of targets with which each row begins.
      limits: number of tokens after which each row ends, including its prompt.
      keys: one random key per row.
      options: settings of sampling.
    """
    return Drawing(self, sources, prompts, limits, keys, options or SamplingOptions())


class Drawing:
  """Rows that are sampled in one batch; see `ConditionedDecoder.begin`."""

  def __init__(
    self,
    decoder: ConditionedDecoder,
    sources: Sequence[Int[np.ndarray, "_"]],
    prompts: Sequence[Int[np.ndarray, "_"]],
    limits: Sequence[int],
    keys: Key[Array, "rows"],
    options: SamplingOptions,
  ):
    spec, count = decoder.spec, len(sources)
    # Copies of the first row pad the batch, so that programs are compiled for few batch sizes.
    rows = [*range(count), *[0] * (row_bucket(count) - count)]
    self._count, self._limits = count, limits
    self._prompts = [len(prompt) for prompt in prompts]
    self._params = decoder.params
    self._program = ConditionedProgram(spec, decoder.config, options.processors)
    unit = -(-spec.source_length // (8 * BUCKETS)) * 8
    length = -(-max(map(len, sources)) // unit) * unit
    source = np.full((len(rows), length), PAD, np.int32)
    capacity = _capacity(max(limits))
    forced = np.full((len(rows), capacity), -1, np.int32)
    for row, of in enumerate(rows):
      source[row, : len(sources[of])] = sources[of]
      forced[row, : len(prompts[of])] = prompts[of]
    encoded = encode(self._program, self._params, source, capacity)
    self._inputs = ConditionedInputs(
      sources=encoded.sources,
      source_bias=encoded.bias,
      forced=forced,
      limits=np.array([limits[of] for of in rows], np.int32),
      keys=rows_of(keys, rows),
      controls=options.controls,
      arrays=tuple(p.arrays() for p in options.processors),
    )
    self._state = ConditionedState(
      step=np.int32(0),
      token=np.full(len(rows), BOS, np.int32),
      cache=encoded.empty,
      drawn=np.full((len(rows), capacity), -1, np.int32),
      recent=np.full((len(rows), self._program.history), -1, np.int32),
      ended=np.zeros(len(rows), bool),
      score=np.zeros(len(rows), np.float32),
    )

  @property
  def step(self) -> int:
    """The number of tokens per row so far, including prompts."""
    return int(self._state.step)

  def draw(self, steps: int) -> list[Drawn]:
    """Draws until each row has `steps` tokens or all rows have ended; returns all tokens so far."""
    stop = np.int32(min(steps, max(self._limits)))
    self._state = decode(self._program, self._params, self._inputs, self._state, stop)
    step = self.step
    # Copies, because the state is donated to the next call.
    drawn, scores = np.array(self._state.drawn)[:, :step], np.array(self._state.score)
    found: list[Drawn] = []
    for row in range(self._count):
      tokens = drawn[row, : self._limits[row]]
      ends = np.flatnonzero(tokens == self._program.end)
      ended = len(ends) > 0
      tokens = tokens[: ends[0]] if ended else tokens
      counted = max(1, len(tokens) + ended - self._prompts[row])
      ended = ended or len(tokens) == self._limits[row]
      found.append(Drawn(tokens, ended, float(scores[row]) / counted))
    return found


def _apply(program: ConditionedProgram, params: Params, *arguments: object, method: str) -> Any:
  return modules.apply(program.spec.model(program.config), params, *arguments, method=method)


def _capacity(steps: int) -> int:
  """Returns the number of positions of the cache: `steps`, rounded up to whole segments."""
  return -(-steps // SEGMENT) * SEGMENT
