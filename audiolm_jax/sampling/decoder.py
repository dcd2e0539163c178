"""Sampling of one autoregressive stage: from prompts to ids.

Shorter prompts are padded on the left, so that all rows of the batch have the same cursor:

    padding  . . . BOS z z z | drawn ...        row 0, padding 3
    padding  BOS z z z z z z | drawn ...        row 1, padding 0
                           ^ cursor
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Key

from audiolm_jax.core.arrays import Array, PyTree
from audiolm_jax.core.modules import Params
from audiolm_jax.lm.attention import Cache
from audiolm_jax.lm.stage import CODEBOOKS, Stage
from audiolm_jax.lm.stages import AutoregressiveSpec
from audiolm_jax.lm.tokens import BOS, PAD
from audiolm_jax.lm.transformer import unstack_layers
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.sampling.loop import (
  SEGMENT,
  AutoregressiveProgram,
  LoopInputs,
  LoopState,
  decode,
  prefill,
  program_of,
  repeated,
)

# Number of length buckets per stage; programs are compiled once per bucket.
BUCKETS = 4
# Tables that stay in float32: rounded codebooks would differ from the codebooks of the codec.
_EXACT = ("relative_bias", CODEBOOKS)
# Maximum bytes of key/value cache per batch; more rows are sampled in turns, one batch per turn.
CACHE_BYTES = 2**30

Progress = Callable[[int, int], None]


class Prompt(NamedTuple):
  """The input of a row.

  Attributes:
    tokens: ids of the source and of the known targets, without the begin token.
    frame_ids: frame ids of these tokens, see `stage_sequence`.
    first_frame: frame id of the first drawn token; 0 for semantic tokens. The known targets are
      whole frames, so the first drawn token of every row belongs to the first target quantizer.
    forced: ids that replace the first drawn tokens.
    earlier: for processors, the codes of all frames before the first drawn frame; -1 for unknown
      levels.
    ahead: for processors, the codes of the source in the frames to draw.
  """

  tokens: Int[np.ndarray, "length"]
  frame_ids: Int[np.ndarray, "length"]
  first_frame: int = 0
  forced: Int[np.ndarray, "count"] | tuple[()] = ()
  earlier: Int[np.ndarray, "frames levels"] | None = None
  ahead: Int[np.ndarray, "new levels"] | None = None


class StageSampler:
  """Samples from an autoregressive stage.

  The constructor unstacks the parameters, casts them and moves them to the device.

  Args:
    stage: spec, config and parameters.
    dtype: dtype of the computation; by default float32 on CPU (where bfloat16 matrix-vector
      products are slower), else the dtype of the config.
    cache_bytes: see `CACHE_BYTES`.
  """

  def __init__(self, stage: Stage, *, dtype: str | None = None, cache_bytes: int = CACHE_BYTES):
    own = "float32" if jax.default_backend() == "cpu" else stage.config.dtype
    config = dataclasses.replace(stage.config.shape(), dtype=own if dtype is None else dtype)
    self.spec = cast(AutoregressiveSpec, stage.spec)
    self.program = program_of(self.spec, config)
    self.params = ready(unstack_layers(stage.params), config.dtype)
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
      prompts: one prompt per row.
      num_tokens: tokens to draw per row.
      keys: one random key per prompt.
      options: settings of sampling.
      progress: called at the start and after each segment with the numbers of drawn and total
        tokens per row, summed over turns; see `stream` for turns.

    Returns:
      Ids of the stage's layout that are legal at their positions.
    """
    drawn: list[Int[np.ndarray, "_"]] = []
    for so_far in self.stream(prompts, num_tokens, keys, options, progress=progress):
      drawn = so_far
    return np.array(drawn, np.int32).reshape(len(prompts), num_tokens)

  def stream(
    self,
    prompts: Sequence[Prompt],
    num_tokens: int,
    keys: Key[Array, "rows"],
    options: SamplingOptions | None = None,
    *,
    progress: Progress | None = None,
  ) -> Iterator[list[Int[np.ndarray, "_"]]]:
    """Yields the ids of each row that have been drawn so far, once per segment.

    If the caches of all rows do not fit into `cache_bytes`, the rows are sampled in turns. A row
    has no ids before its turn.

    Args:
      prompts: see `sample`.
      num_tokens: see `sample`.
      keys: see `sample`.
      options: see `sample`.
      progress: see `sample`.
    """
    if not prompts or num_tokens == 0:
      return
    capacity = self._capacity(prompts, num_tokens)
    per_turn = self._per_turn(capacity)
    starts = range(0, len(prompts), per_turn)
    total = len(starts) * num_tokens
    if progress is not None:
      progress(0, total)
    drawn: list[np.ndarray] = [np.zeros(0, np.int32)] * len(prompts)
    for turn, start in enumerate(starts):
      rows = range(len(prompts))[start : start + per_turn]
      part = slice(rows.start, rows.stop)
      own = prompts[part], num_tokens, rows_of(keys, rows), options
      for tokens in self._pieces(*own, capacity):
        drawn[part] = tokens
        if progress is not None:
          progress(turn * num_tokens + len(tokens[0]), total)
        yield [*drawn]

  def prepare(
    self,
    prompts: Sequence[Prompt],
    num_tokens: int,
    keys: Key[Array, "rows"],
    options: SamplingOptions | None = None,
  ) -> None:
    """Starts to load or compile the programs of `sample` in the background; draws nothing.

    Args:
      prompts: prompts with the lengths of the prompts of `sample`. Two prompts must be equal if and
        only if they are equal in the call of `sample`.
      num_tokens: see `sample`.
      keys: see `sample`.
      options: see `sample`.
    """
    if not prompts or num_tokens == 0:
      return
    capacity = self._capacity(prompts, num_tokens)
    first = prompts[: self._per_turn(capacity)]
    prompts, keys = _filled(first, rows_of(keys, range(len(first))))
    arguments, sources = self._to_read(prompts)
    prefill.prepare(self.program, self.params, *arguments, capacity)
    if _is_repeated(sources):
      repeated.prepare(self._cache_shape(len(arguments.tokens), capacity), sources)
    cache = self._cache_shape(len(prompts), capacity)
    program = self._program(options)
    steps = self._steps(num_tokens, capacity)
    inputs, state = _loop(program, prompts, steps, keys, options, cache)
    decode.prepare(program, self.params, inputs, state, np.int32(num_tokens))

  def _program(self, options: SamplingOptions | None) -> AutoregressiveProgram:
    """Returns the program with the processors of the options."""
    added = options.processors if options else ()
    if not added:
      return self.program
    return dataclasses.replace(self.program, processors=(*self.program.processors, *added))

  def _per_turn(self, capacity: int) -> int:
    return max(1, self._cache_bytes // (capacity * self.program.config.cache_bytes_per_token))

  def _capacity(self, prompts: Sequence[Prompt], num_tokens: int) -> int:
    return self._bucket(max(len(p.tokens) for p in prompts) + _whole_segments(num_tokens))

  def _pieces(
    self,
    prompts: Sequence[Prompt],
    num_tokens: int,
    keys: Key[Array, "rows"],
    options: SamplingOptions | None,
    capacity: int,
  ) -> Iterator[Int[np.ndarray, "rows drawn"]]:
    """Yields the ids of one batch that have been drawn so far, once per segment."""
    count = len(prompts)
    prompts, keys = _filled(prompts, keys)
    steps = self._steps(num_tokens, capacity)
    inputs, state = self._begin(prompts, steps, keys, options, capacity)
    program = self._program(options)
    for start in range(0, num_tokens, SEGMENT):
      stop = min(start + SEGMENT, num_tokens)
      state = decode(program, self.params, inputs, state, np.int32(stop))
      # A copy, because the state is donated to the next call.
      yield np.array(state.drawn)[:count, :stop]

  def _steps(self, num_tokens: int, capacity: int) -> int:
    """Returns the number of tokens per row that the state of the loop can hold."""
    steps = _whole_segments(num_tokens) if num_tokens > SEGMENT else SEGMENT
    return capacity if steps > capacity else self._bucket(steps)

  def _begin(
    self,
    prompts: Sequence[Prompt],
    steps: int,
    keys: Key[Array, "batch"],
    options: SamplingOptions | None,
    capacity: int,
  ) -> tuple[LoopInputs, LoopState]:
    arguments, sources = self._to_read(prompts)
    cache = prefill(self.program, self.params, *arguments, capacity)
    if _is_repeated(sources):
      cache = repeated(cache, sources)
    return _loop(self._program(options), prompts, steps, keys, options, cache)

  def _to_read(self, prompts: Sequence[Prompt]) -> tuple["_ToRead", Int[np.ndarray, "batch"]]:
    """Returns the arrays for `prefill`, and for each prompt the index of its row in these arrays.

    Equal prompts, such as the prompts of several samples of a clip, share one row.
    """
    longest = max(len(p.tokens) for p in prompts)
    known: dict[bytes, int] = {}
    sources = [
      known.setdefault(np.stack([p.tokens, p.frame_ids]).tobytes(), len(known)) for p in prompts
    ]
    rows = [sources.index(source) for source in range(len(known))]
    rows += [0] * (row_bucket(len(rows)) - len(rows))
    length = self._bucket(longest) if longest else 0
    tokens = np.full((len(rows), length), PAD, np.int32)
    frame_ids = np.zeros_like(tokens)
    lengths = np.array([len(prompts[row].tokens) for row in rows], np.int32)
    for i, (row, count) in enumerate(zip(rows, lengths, strict=True)):
      if count:
        # Prefill reads the begin token and all tokens of the prompt but the last. The loop reads
        # the last token.
        tokens[i, length - count :] = [BOS, *prompts[row].tokens[:-1]]
        frame_ids[i, length - count :] = prompts[row].frame_ids
    arguments = _ToRead(tokens, frame_ids, lengths, np.int32(longest))
    return arguments, np.array(sources, np.int32)

  def _cache_shape(self, batch: int, capacity: int) -> tuple[Cache, ...]:
    """Returns arrays with the shapes of the cache; they are broadcast, so they use no memory."""
    c = self.program.config

    def nothing(*shape: int) -> Array:
      return cast(Array, np.broadcast_to(np.zeros((), jnp.dtype(c.dtype)), shape))

    keys = nothing(batch, c.kv_heads, c.head_size, capacity)
    return (Cache(keys, nothing(batch, c.kv_heads, capacity, c.head_size)),) * c.num_layers

  def _bucket(self, length: int) -> int:
    """Returns `length` rounded up to a multiple of about 1 / BUCKETS of the longest sequence."""
    unit = -(-(self.spec.max_length + SEGMENT) // (8 * BUCKETS)) * 8
    return -(-length // unit) * unit


class _ToRead(NamedTuple):
  """The arrays for `prefill`: its arguments between the parameters and the capacity."""

  tokens: Int[np.ndarray, "batch length"]
  frame_ids: Int[np.ndarray, "batch length"]
  lengths: Int[np.ndarray, "batch"]
  longest: Int[np.int32, ""]


def _loop(
  program: AutoregressiveProgram,
  prompts: Sequence[Prompt],
  steps: int,
  keys: Key[Array, "batch"],
  options: SamplingOptions | None,
  cache: tuple[Cache, ...],
) -> tuple[LoopInputs, LoopState]:
  """Returns the inputs and the initial state of `decode`; `cache` contains the prompts."""
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
  """Writes the known codes of a row into its part of `LoopState.codes`."""
  if prompt.earlier is not None and history:
    known = prompt.earlier[-history:]
    codes[history - len(known) : history, : known.shape[1]] = known
  if prompt.ahead is not None:
    known = prompt.ahead[: len(codes) - history]
    codes[history : history + len(known), : known.shape[1]] = known


def _filled(
  prompts: Sequence[Prompt], keys: Key[Array, "rows"]
) -> tuple[Sequence[Prompt], Key[Array, "filled"]]:
  """Adds copies of the first row up to a `row_bucket`, so that few batch sizes are compiled."""
  missing = row_bucket(len(prompts)) - len(prompts)
  rows = [*range(len(prompts)), *[0] * missing]
  return [prompts[row] for row in rows], rows_of(keys, rows)


def rows_of(keys: Key[Array, "rows"], rows: Sequence[int]) -> Key[Array, "chosen"]:
  """Returns the keys of the given rows; runs no program if `rows` are all rows in order."""
  if [*rows] == [*range(len(keys))]:
    return keys
  return repeated(keys, np.array(rows, np.int32))


def _is_repeated(sources: Int[np.ndarray, "batch"]) -> bool:
  """Returns whether the rows of `prefill` must be gathered by `sources` to match the prompts."""
  return sources.tolist() != [*range(row_bucket(int(sources.max()) + 1))]


def _whole_segments(num_tokens: int) -> int:
  return -(-num_tokens // SEGMENT) * SEGMENT


def row_bucket(rows: int) -> int:
  """Returns `rows`, rounded up to one of the numbers 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""
  power = 1 << max(0, (rows - 1).bit_length())
  return power * 3 // 4 if power >= 4 and rows <= power * 3 // 4 else power


def stored_dtype(path: tuple[object, ...], ndim: int, dtype: str) -> np.dtype:
  """Returns the dtype of a parameter: float32 for vectors, scalars and `_EXACT`, else `dtype`."""
  is_table = any(getattr(entry, "key", None) in _EXACT for entry in path)
  return jnp.dtype("float32" if ndim <= 1 or is_table else dtype)


def ready(params: Params, dtype: str) -> PyTree:
  """Moves parameters to the device, in the dtypes of `stored_dtype`."""

  def with_dtype(path: tuple[object, ...], value: Array) -> np.ndarray:
    # NumPy casts without a compilation; jnp would compile a small program for every shape.
    return np.asarray(value).astype(stored_dtype(path, value.ndim, dtype), copy=False)

  return jax.device_put(jax.tree_util.tree_map_with_path(with_dtype, params))  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
