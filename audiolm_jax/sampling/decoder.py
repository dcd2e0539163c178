"""Sampling one stage: a prefill of the prompt, then a compiled loop with a key/value cache.

Rows of unequal prompts are padded on the left, so one scalar cursor serves the batch:

    padding  . . . BOS z z z | drawn ...        row 0, padding 3
    padding  BOS z z z z z z | drawn ...        row 1, padding 0
                           ^ cursor

The cache has two parts. The large one is only read while a segment of `SEGMENT` tokens is drawn;
new keys go to a small one, which is written into the large one once per segment. So no step copies
the large cache, whether or not the compiler manages to update it in place.

Every row draws with its own key, and each position with a key folded from it: a row's tokens do
not depend on the other rows, on the padding, or on how often progress is reported.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, Key

from audiolm_jax.io.stored_program import StoredProgram
from audiolm_jax.lm.attention import MASKED, KeyValues, cached_attention
from audiolm_jax.lm.stages import Stage, StageSpec
from audiolm_jax.lm.tokens import BOS, PAD
from audiolm_jax.lm.transformer import Transformer, TransformerConfig, unstack_layers
from audiolm_jax.sampling.logits import Controls, SamplingOptions, draw

# Tokens drawn between two writes to the large cache.
SEGMENT = 64
# Tokens drawn between two reports of progress.
_REPORT = 4 * SEGMENT
# Lengths that programs are compiled for, per stage.
BUCKETS = 4
# Key/value cache that one batch may take; more rows are sampled in turns.
CACHE_BYTES = 2**30

Progress = Callable[[int, int], None]


class Prompt(NamedTuple):
  """What a row is given.

  Attributes:
    tokens: ids of the source and of the targets known so far, without the begin token.
    frame_ids: their frame ids.
    first_frame: frame id of the first drawn token; 0 for semantic tokens. The known targets are
      whole frames, so every row's first drawn token is of the first target quantizer.
    forced: ids that take the place of the first drawn tokens.
  """

  tokens: Int[np.ndarray, "length"]
  frame_ids: Int[np.ndarray, "length"]
  first_frame: int = 0
  forced: Int[np.ndarray, "count"] | tuple[()] = ()


@dataclasses.dataclass(frozen=True)
class Program:
  """What a compiled loop depends on besides shapes; hashable."""

  spec: StageSpec
  config: TransformerConfig

  @property
  def model(self) -> Transformer:
    """The transformer that the loop runs."""
    return Transformer(self.config, self.spec.layout.vocab_size)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LoopInputs:
  """What does not change during the loop.

  Attributes:
    padding: int32 [batch], cache positions at the left that hold nothing.
    first_frame: int32 [batch], frame id of the first drawn token.
    forced: int32 [batch, steps], ids that take the place of drawn ones; -1 where there is none.
    keys: [batch], each row's random key.
    controls: temperature and the like, scalars.
  """

  padding: Int[Array | np.ndarray, "batch"]
  first_frame: Int[Array | np.ndarray, "batch"]
  forced: Int[Array | np.ndarray, "batch steps"]
  keys: Key[Array, "batch"]
  controls: Controls


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LoopState:
  """What changes; donated from call to call.

  Attributes:
    step: int32 scalar, tokens drawn so far.
    cursor: int32 scalar, positions of `cache` in use, padding included.
    token: int32 [batch], the newest token, which the model has not read yet.
    run: int32 [batch], how often `token` stands at the end, one after another.
    cache: per layer, keys and values [batch, kv_heads, capacity, head_dim].
    drawn: int32 [batch, steps], the ids drawn so far, PAD beyond `step`.
  """

  step: Int[Array | np.int32, ""]
  cursor: Int[Array | np.int32, ""]
  token: Int[Array | np.ndarray, "batch"]
  run: Int[Array | np.ndarray, "batch"]
  cache: tuple[KeyValues, ...]
  drawn: Int[Array | np.ndarray, "batch steps"]


class StageSampler:
  """A stage made ready to sample: parameters unstacked, cast and on the device.

  Args:
    stage: spec, config and parameters.
    dtype: of the computation; default float32 on CPU (where bfloat16 matrix-vector products are
      slower), else the config's.
    cache_bytes: see `CACHE_BYTES`.
  """

  def __init__(self, stage: Stage, *, dtype: str | None = None, cache_bytes: int = CACHE_BYTES):
    if dtype is None:
      dtype = "float32" if jax.default_backend() == "cpu" else stage.config.dtype
    config = dataclasses.replace(stage.config.shape(), dtype=dtype)
    self.spec = stage.spec
    self.program = Program(stage.spec, config)
    self.params = _ready(unstack_layers(stage.params), dtype)
    self._cache_bytes = cache_bytes

  def sample(
    self,
    prompts: Sequence[Prompt],
    num_tokens: int,
    keys: Key[Array, "rows"],
    options: SamplingOptions | None = None,
    *,
    progress: Progress | None = None,
  ) -> Int[np.ndarray, "rows num_tokens"]:
    """Draws `num_tokens` target tokens after each prompt.

    Args:
      keys: one random key per prompt.
      progress: called with the tokens drawn and to draw, summed over turns: at the beginning, and
        then about every second hundred tokens.
    Returns:
      Ids of the stage's layout, legal at their positions.
    """
    rows = len(prompts)
    if rows == 0 or num_tokens == 0:
      return np.zeros((rows, num_tokens), np.int32)
    capacity = self._capacity(prompts, num_tokens)
    per_turn = self._per_turn(capacity)
    starts = range(0, rows, per_turn)
    if progress is not None:
      progress(0, len(starts) * num_tokens)
    results = []
    for turn, start in enumerate(starts):
      part = slice(start, start + per_turn)
      pieces = []
      for piece in self._pieces(
        prompts[part], num_tokens, _rows_of(keys, [*range(rows)[part]]), options, capacity, _REPORT
      ):
        pieces.append(piece)
        if progress is not None:
          done = turn * num_tokens + sum(piece.shape[1] for piece in pieces)
          progress(done, len(starts) * num_tokens)
      results.append(np.concatenate(pieces, axis=1))
    return np.concatenate(results)

  def stream(
    self,
    prompts: Sequence[Prompt],
    num_tokens: int,
    keys: Key[Array, "rows"],
    options: SamplingOptions | None = None,
  ) -> Iterator[Int[np.ndarray, "rows segment"]]:
    """What `sample` draws, `SEGMENT` tokens at a time; all rows at once, whatever they take up."""
    capacity = self._capacity(prompts, num_tokens)
    return self._pieces(prompts, num_tokens, keys, options, capacity, SEGMENT)

  def prepare(
    self,
    prompts: Sequence[Prompt],
    num_tokens: int,
    keys: Key[Array, "rows"],
    options: SamplingOptions | None = None,
  ) -> None:
    """Begins to load or compile, in the background, the programs of `sample`; draws nothing.

    Args:
      prompts, num_tokens, keys, options: as of `sample`; of the prompts their lengths count, and
        which of them are alike.
    """
    if not prompts or num_tokens == 0:
      return
    capacity = self._capacity(prompts, num_tokens)
    first = prompts[: self._per_turn(capacity)]
    prompts, keys = _filled(first, _rows_of(keys, range(len(first))))
    arguments, sources = self._to_read(prompts)
    prefill.prepare(self.program, self.params, *arguments, capacity)
    if _is_repeated(sources):
      repeated.prepare(self._cache_shape(len(arguments.tokens), capacity), sources)
    cache = self._cache_shape(len(prompts), capacity)
    inputs, state = _loop(prompts, self._steps(num_tokens, capacity), keys, options, cache)
    decode.prepare(self.program, self.params, inputs, state, np.int32(num_tokens))

  def _per_turn(self, capacity: int) -> int:
    return max(1, self._cache_bytes // (capacity * self.program.config.cache_bytes_per_token))

  def _capacity(self, prompts: Sequence[Prompt], num_tokens: int) -> int:
    return self._bucket(max(len(p.tokens) for p in prompts) + _whole_segments(num_tokens))

  def _pieces(
    self, prompts, num_tokens, keys, options, capacity, every
  ) -> Iterator[Int[np.ndarray, "rows piece"]]:
    """The tokens of one batch, `every` few of them as soon as they are drawn."""
    count = len(prompts)
    prompts, keys = _filled(prompts, keys)
    steps = self._steps(num_tokens, capacity)
    inputs, state = self._begin(prompts, steps, keys, options, capacity)
    for start in range(0, num_tokens, every):
      stop = min(start + every, num_tokens)
      state = decode(self.program, self.params, inputs, state, np.int32(stop))
      # A copy: the next call takes the state's memory.
      yield np.array(state.drawn)[:count, start:stop]

  def _steps(self, num_tokens: int, capacity: int) -> int:
    """Tokens that the loop's state has room for."""
    steps = _whole_segments(num_tokens) if num_tokens > SEGMENT else SEGMENT
    return capacity if steps > capacity else self._bucket(steps)

  def _begin(self, prompts, steps, keys, options, capacity) -> tuple[LoopInputs, LoopState]:
    arguments, sources = self._to_read(prompts)
    cache = prefill(self.program, self.params, *arguments, capacity)
    if _is_repeated(sources):
      cache = repeated(cache, sources)
    return _loop(prompts, steps, keys, options, cache)

  def _to_read(self, prompts: Sequence[Prompt]) -> tuple["_ToRead", Int[np.ndarray, "batch"]]:
    """What `prefill` is called with, and for each prompt the row that reads it.

    Prompts that are alike, as samples of one are, are read once.
    """
    longest = max(len(p.tokens) for p in prompts)
    known: dict[bytes, int] = {}
    sources = [
      known.setdefault(np.stack([p.tokens, p.frame_ids]).tobytes(), len(known)) for p in prompts
    ]
    rows = [sources.index(source) for source in range(len(known))]
    rows += [0] * (_row_bucket(len(rows)) - len(rows))
    length = self._bucket(longest) if longest else 0
    tokens = np.full((len(rows), length), PAD, np.int32)
    frame_ids = np.zeros_like(tokens)
    lengths = np.array([len(prompts[row].tokens) for row in rows], np.int32)
    for i, (row, count) in enumerate(zip(rows, lengths, strict=True)):
      if count:
        # The model reads the begin token and all known ones but the newest, which the loop reads.
        tokens[i, length - count :] = [BOS, *prompts[row].tokens[:-1]]
        frame_ids[i, length - count :] = prompts[row].frame_ids
    arguments = _ToRead(tokens, frame_ids, lengths, np.int32(longest))
    return arguments, np.array(sources, np.int32)

  def _cache_shape(self, batch: int, capacity: int) -> tuple[KeyValues, ...]:
    """Arrays of the cache's shape that take up no memory."""
    c = self.program.config
    shape = batch, c.kv_heads, capacity, c.head_size
    nothing = np.broadcast_to(np.zeros((), jnp.dtype(c.dtype)), shape)
    return (KeyValues(nothing, nothing),) * c.num_layers

  def _bucket(self, length: int) -> int:
    """`length` rounded up to a multiple of a quarter of the stage's own length."""
    unit = -(-(self.spec.max_length + SEGMENT) // (8 * BUCKETS)) * 8
    return -(-length // unit) * unit


class _ToRead(NamedTuple):
  """Arguments of `prefill` between the parameters and the capacity."""

  tokens: Int[np.ndarray, "batch length"]
  frame_ids: Int[np.ndarray, "batch length"]
  lengths: Int[np.ndarray, "batch"]
  longest: Int[np.int32, ""]


def _loop(
  prompts: Sequence[Prompt],
  steps: int,
  keys: Key[Array, "batch"],
  options: SamplingOptions | None,
  cache: tuple[KeyValues, ...],
) -> tuple[LoopInputs, LoopState]:
  """What `decode` is called with, once the prompts are read."""
  longest = max(len(p.tokens) for p in prompts)
  forced = np.full((len(prompts), steps), -1, np.int32)
  newest = np.full(len(prompts), BOS, np.int32)
  run = np.ones(len(prompts), np.int32)
  for row, prompt in enumerate(prompts):
    if len(prompt.tokens):
      newest[row] = prompt.tokens[-1]
      other = np.flatnonzero(prompt.tokens != newest[row]).max(initial=-1)
      run[row] = len(prompt.tokens) - other - 1
    forced[row, : len(prompt.forced)] = prompt.forced
  inputs = LoopInputs(
    padding=np.array([longest - len(p.tokens) for p in prompts], np.int32),
    first_frame=np.array([p.first_frame for p in prompts], np.int32),
    forced=forced,
    keys=keys,
    controls=(options or SamplingOptions()).controls,
  )
  state = LoopState(
    step=np.int32(0),
    cursor=np.int32(longest),
    token=newest,
    run=run,
    cache=cache,
    drawn=np.full((len(prompts), steps), PAD, np.int32),
  )
  return inputs, state


def _prefill_fn(
  program: Program,
  params: Any,
  tokens: Int[Array, "batch length"],
  frame_ids: Int[Array, "batch length"],
  lengths: Int[Array, "batch"],
  longest: Int[Array, ""],
  capacity: int,
) -> tuple[KeyValues, ...]:
  """The cache after the prompts, its padding cut to that of the longest prompt."""
  batch, length = tokens.shape
  c = program.config
  if length == 0:
    zeros = jnp.zeros((batch, c.kv_heads, capacity, c.head_size), c.dtype)
    return tuple(KeyValues(zeros, zeros + 0) for _ in range(c.num_layers))
  _, cache = program.model.apply(
    {"params": params}, tokens, frame_ids, length - lengths, method="prefill"
  )

  def place(x):
    x = jnp.pad(x, ((0, 0), (0, 0), (0, capacity), (0, 0)))
    return lax.dynamic_slice_in_dim(x, length - longest, capacity, axis=2)

  return jax.tree.map(place, cache)


def _repeated_fn(tree: Any, rows: Int[Array | np.ndarray, "batch"]) -> Any:
  """These rows of each array."""
  return jax.tree.map(lambda x: x[rows], tree)


def _decode_fn(
  program: Program, params: Any, inputs: LoopInputs, state: LoopState, stop: Int[Array, ""]
) -> LoopState:
  """Draws tokens until `stop` of them are drawn."""
  capacity = state.cache[0].keys.shape[2]
  model, variables = program.model, {"params": params}
  bias = model.apply(variables, capacity + SEGMENT, method="distance_bias")[0]

  def draw_segment(state: LoopState) -> LoopState:
    count = jnp.minimum(SEGMENT, stop - state.step)
    key_index = jnp.arange(capacity)
    held = (key_index >= inputs.padding[:, None]) & (key_index < state.cursor)
    held = jnp.where(held, 0.0, MASKED)[:, None, :]

    def draw_one(index, carry):
      token, run, recent, drawn = carry
      position = state.cursor + index
      old_bias = _reversed_window(bias, position, capacity) + held
      new_bias = _reversed_window(bias[:, :SEGMENT], index, SEGMENT)[None]

      def attend_with(old: KeyValues, new: KeyValues):
        def attend(query, key_values):
          written = jax.tree.map(
            lambda buffer, x: lax.dynamic_update_slice_in_dim(buffer, x, index, axis=2),
            new,
            key_values,
          )
          # Keeps XLA:CPU from fusing the write with its readers, which would copy the buffer.
          written = lax.optimization_barrier(written)
          return cached_attention(query, [(old, old_bias), (written, new_bias)]), written

        return attend

      step = state.step + index
      frame_id = _frame_id(program, inputs.first_frame, step)
      hidden, recent = model.apply(
        variables,
        token,
        frame_id,
        position - inputs.padding,
        [attend_with(old, new) for old, new in zip(state.cache, recent, strict=True)],
        method="decode_step",
      )
      chosen = _choose(program, variables, inputs, hidden, token, run, step)
      forced = lax.dynamic_index_in_dim(inputs.forced, step, axis=1, keepdims=False)
      chosen = jnp.where(forced >= 0, forced, chosen)
      token, run = chosen, jnp.where(chosen == token, run + 1, 1)
      drawn = lax.dynamic_update_index_in_dim(drawn, token, step, axis=1)
      return token, run, recent, drawn

    empty = jax.tree.map(lambda x: jnp.zeros_like(x[:, :, :SEGMENT]), state.cache)
    begin = state.token, state.run, empty, state.drawn
    token, run, recent, drawn = lax.fori_loop(0, count, draw_one, begin)
    cache = jax.tree.map(
      lambda old, new: lax.dynamic_update_slice_in_dim(old, new, state.cursor, axis=2),
      state.cache,
      recent,
    )
    return LoopState(state.step + count, state.cursor + count, token, run, cache, drawn)

  return lax.while_loop(lambda s: s.step < stop, draw_segment, state)


# Compiled once per program, number of rows and bucket of lengths. The state is donated: its cache
# is most of the memory in use.
prefill = StoredProgram(_prefill_fn, static_argnums=(0, 6))
repeated = StoredProgram(_repeated_fn)
decode = StoredProgram(_decode_fn, static_argnums=(0,), donate_argnums=(3,))


def _choose(program: Program, variables, inputs: LoopInputs, hidden, token, run, step):
  """One legal id per row."""
  spec = program.spec
  start, size = spec.layout.legal_range(
    step, spec.first_target_quantizer, spec.num_target_quantizers
  )
  logits = program.model.apply(variables, hidden, start, size, method="range_logits")
  if spec.predicts_semantic and spec.run_limit is not None:
    # Longer runs of a token never occur in training.
    repeat = jnp.arange(size) == token[:, None] - start
    logits = jnp.where(repeat & (run >= spec.run_limit)[:, None], -jnp.inf, logits)
  keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(inputs.keys, step)
  return start + draw(logits, keys, inputs.controls)


def _frame_id(program: Program, first_frame: Int[Array, "batch"], step: Int[Array, ""]):
  """Frame ids of the tokens about to be drawn."""
  rows = program.config.num_frame_embeddings
  if not rows:
    return None
  if program.spec.predicts_semantic:
    return jnp.zeros_like(first_frame)
  # Steps past a row's own end may run past the table; what they draw is not used.
  return jnp.minimum(first_frame + step // program.spec.num_target_quantizers, rows - 1)


def _reversed_window(bias, position, length: int):
  """The bias, and the causal mask, of keys 0 .. length - 1 for a query at `position`.

  With bias b by distance, position 1 and length 4:   b1 b0 -- --
  """
  future = jnp.full((bias.shape[0], length), MASKED, bias.dtype)
  diagonal = jnp.concatenate([jnp.flip(bias, axis=1), future], axis=1)
  start = bias.shape[1] - 1 - position
  return lax.dynamic_slice_in_dim(diagonal, start, length, axis=1)


def _filled(
  prompts: Sequence[Prompt], keys: Key[Array, "rows"]
) -> tuple[Sequence[Prompt], Key[Array, "filled"]]:
  """Other numbers of rows filled up with copies of the first, so that few are compiled."""
  missing = _row_bucket(len(prompts)) - len(prompts)
  rows = [*range(len(prompts)), *[0] * missing]
  return [prompts[row] for row in rows], _rows_of(keys, rows)


def _rows_of(keys: Key[Array, "rows"], rows: Sequence[int]) -> Key[Array, "chosen"]:
  """These rows of the keys; without a program where that is all of them."""
  if [*rows] == [*range(len(keys))]:
    return keys
  return repeated(keys, np.array(rows, np.int32))


def _is_repeated(sources: Int[np.ndarray, "batch"]) -> bool:
  """Whether prompts share a row, or are in another order than the rows that read them."""
  return sources.tolist() != [*range(_row_bucket(int(sources.max()) + 1))]


def _whole_segments(num_tokens: int) -> int:
  return -(-num_tokens // SEGMENT) * SEGMENT


def _row_bucket(rows: int) -> int:
  """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""
  power = 1 << max(0, (rows - 1).bit_length())
  return power * 3 // 4 if power >= 4 and rows <= power * 3 // 4 else power


def stored_dtype(path: tuple[Any, ...], ndim: int, dtype: str) -> Any:
  """Of a parameter while its stage is sampled, where the computation has `dtype`."""
  is_table = any(getattr(entry, "key", None) == "relative_bias" for entry in path)
  return jnp.dtype("float32" if ndim <= 1 or is_table else dtype)


def _ready(params: Any, dtype: str) -> Any:
  """Parameters on the device, matrices in the dtype of the computation."""

  def ready(path, value):
    # By numpy: jnp would compile a small program for every shape.
    return np.asarray(value).astype(stored_dtype(path, value.ndim, dtype), copy=False)

  return jax.device_put(jax.tree_util.tree_map_with_path(ready, params))
