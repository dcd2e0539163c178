"""Sampling one autoregressive stage: prompts in, ids out.

Rows of unequal prompts are padded on the left, so one scalar cursor serves the batch:

    padding  . . . BOS z z z | drawn ...        row 0, padding 3
    padding  BOS z z z z z z | drawn ...        row 1, padding 0
                           ^ cursor
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from audiolm_jax.lm.attention import KeyValues
from audiolm_jax.lm.stage import Stage
from audiolm_jax.lm.tokens import BOS, PAD
from audiolm_jax.lm.transformer import unstack_layers
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.sampling.loop import (
  SEGMENT,
  LoopInputs,
  LoopState,
  Program,
  decode,
  prefill,
  program_of,
  repeated,
)

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
    earlier: codes of all frames before the first drawn one, -1 where a level is not known; for
      processors.
    ahead: the same of the drawn frames, as far as a source gives them.
  """

  tokens: Int[np.ndarray, "length"]
  frame_ids: Int[np.ndarray, "length"]
  first_frame: int = 0
  forced: Int[np.ndarray, "count"] | tuple[()] = ()
  earlier: Int[np.ndarray, "frames levels"] | None = None
  ahead: Int[np.ndarray, "new levels"] | None = None


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
    self.program = program_of(stage.spec, config)
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
    program = self._program(options)
    steps = self._steps(num_tokens, capacity)
    inputs, state = _loop(program, prompts, steps, keys, options, cache)
    decode.prepare(program, self.params, inputs, state, np.int32(num_tokens))

  def _program(self, options: SamplingOptions | None) -> Program:
    """With the processors that the options add."""
    added = options.processors if options else ()
    if not added:
      return self.program
    return dataclasses.replace(self.program, processors=(*self.program.processors, *added))

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
    program = self._program(options)
    for start in range(0, num_tokens, every):
      stop = min(start + every, num_tokens)
      state = decode(program, self.params, inputs, state, np.int32(stop))
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
    return _loop(self._program(options), prompts, steps, keys, options, cache)

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
  program: Program,
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
  processors = program.processors
  frames = -(-steps // program.per_frame) if processors else 0
  history = program.history
  codes = np.full(
    (len(prompts), history + frames, program.levels if processors else 0), -1, np.int32
  )
  for row, prompt in enumerate(prompts):
    if len(prompt.tokens):
      newest[row] = prompt.tokens[-1]
    if processors:
      _note(codes[row], history, prompt)
    forced[row, : len(prompt.forced)] = prompt.forced
  inputs = LoopInputs(
    padding=np.array([longest - len(p.tokens) for p in prompts], np.int32),
    first_frame=np.array([p.first_frame for p in prompts], np.int32),
    forced=forced,
    keys=keys,
    controls=(options or SamplingOptions()).controls,
    frame=np.array([0 if p.earlier is None else len(p.earlier) for p in prompts], np.int32),
    arrays=tuple(p.arrays() for p in processors),
  )
  state = LoopState(
    step=np.int32(0),
    cursor=np.int32(longest),
    token=newest,
    cache=cache,
    drawn=np.full((len(prompts), steps), PAD, np.int32),
    codes=codes,
  )
  return inputs, state


def _note(codes: Int[np.ndarray, "frames levels"], history: int, prompt: Prompt) -> None:
  """Puts what is known of a row into its part of `LoopState.codes`."""
  if prompt.earlier is not None and history:
    known = prompt.earlier[-history:]
    codes[history - len(known) : history, : known.shape[1]] = known
  if prompt.ahead is not None:
    known = prompt.ahead[: len(codes) - history]
    codes[history : history + len(known), : known.shape[1]] = known


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
