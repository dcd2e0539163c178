"""The compiled parts of decoding: prefill of the prompt and a loop with a key/value cache.

The cache has two parts. The large part is only read while a segment of `SEGMENT` tokens is drawn.
New keys and values are written to a small part, which is copied into the large part once per
segment. So no step copies the large part, even if the compiler cannot update it in place.

Every row has its own random key. `jax.random.fold_in` computes the random key of each position from
this key. So the tokens of a row do not depend on other rows, on padding or on the number of calls
of `decode`.
"""

# jax.numpy leaves out the types of some parameters, such as `device`.
# pyright: reportUnknownMemberType=false

import dataclasses
from typing import cast, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int, Key

from audiolm_jax.core import modules
from audiolm_jax.core.arrays import Array, PyTree
from audiolm_jax.core.modules import Params
from audiolm_jax.io.stored_program import StoredProgram
from audiolm_jax.lm.attention import MASKED, Cache, KeyValues, attend_and_write
from audiolm_jax.lm.blocks import Attend
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.lm.stages import AutoregressiveSpec
from audiolm_jax.lm.transformer import Transformer
from audiolm_jax.sampling.logits import Controls
from audiolm_jax.sampling.processors import Context, LegalIds, Processor, RunLimit, draw_legal

# Tokens drawn between two writes to the large cache.
SEGMENT = 64


@dataclasses.dataclass(frozen=True)
class AutoregressiveProgram:
  """The static arguments of a compiled loop; hashable.

  Attributes:
    spec: spec of the stage.
    config: shape of the transformer of the stage.
    processors: processors of the logits, applied in this order.
  """

  spec: AutoregressiveSpec
  config: TransformerConfig
  processors: tuple[Processor, ...] = ()

  @property
  def model(self) -> Transformer:
    """The transformer that the loop runs."""
    return Transformer(self.config, self.spec.layout.vocab_size)

  @property
  def per_frame(self) -> int:
    """Number of tokens drawn per frame; 1 for a semantic stage, whose frames are its steps."""
    return max(1, self.spec.num_target_quantizers)

  @property
  def levels(self) -> int:
    """Number of levels that processors receive; 1 for a semantic stage."""
    return max(1, self.spec.num_quantizers)

  @property
  def history(self) -> int:
    """Number of earlier frames that processors receive."""
    return max((p.history for p in self.processors), default=0)


def program_of(spec: AutoregressiveSpec, config: TransformerConfig) -> AutoregressiveProgram:
  """Returns the program of a stage; it has a `RunLimit` if the stage limits runs of its targets."""
  limit = spec.run_limit if spec.predicts_semantic else None
  return AutoregressiveProgram(spec, config, () if limit is None else (RunLimit(limit),))


@no_type_check  # fields may also be shapes instead of arrays
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LoopInputs:
  """The values that are constant during the loop.

  Attributes:
    padding: int32 [batch], number of unused cache positions on the left.
    first_frame: int32 [batch], frame id of the first drawn token.
    forced: int32 [batch, steps], ids that replace drawn ids; -1 for no replacement.
    keys: [batch], random key of each row.
    controls: sampling settings as scalars, such as the temperature.
    frame: int32 [batch], number of frames of the row before the first drawn frame.
    arrays: the arrays of each processor.
  """

  padding: Int[Array | np.ndarray, "batch"]
  first_frame: Int[Array | np.ndarray, "batch"]
  forced: Int[Array | np.ndarray, "batch steps"]
  keys: Key[Array, "batch"]
  controls: Controls
  frame: Int[Array | np.ndarray, "batch"]
  arrays: tuple[PyTree, ...]


@no_type_check  # fields may also be shapes instead of arrays
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LoopState:
  """The values that change during the loop; each call of `decode` donates them.

  Attributes:
    step: int32 scalar, number of tokens per row drawn so far.
    cursor: int32 scalar, number of used positions of `cache`, including padding.
    token: int32 [batch], id of the newest token, which the model has not read yet.
    cache: per layer, keys and values, with space for all positions.
    drawn: int32 [batch, steps], the drawn ids; PAD at later steps.
    codes: int32 [batch, history + frames, levels], codes of the last `history` frames before the
      first drawn frame, then codes of the frames to draw; -1 for unknown codes. Empty without
      processors.
  """

  step: Int[Array | np.int32, ""]
  cursor: Int[Array | np.int32, ""]
  token: Int[Array | np.ndarray, "batch"]
  cache: tuple[Cache, ...]
  drawn: Int[Array | np.ndarray, "batch steps"]
  codes: Int[Array | np.ndarray, "batch frames levels"]


# The newest token, the small part of the cache, the drawn ids and the codes.
_Carry = tuple[Array, tuple[Cache, ...], Array, Array]


def _prefill_fn(
  program: AutoregressiveProgram,
  params: Params,
  tokens: Int[Array, "batch length"],
  frame_ids: Int[Array, "batch length"],
  lengths: Int[Array, "batch"],
  longest: Int[Array, ""],
  capacity: int,
) -> tuple[Cache, ...]:
  """Returns the cache after the prompts, without the positions that are padding in every row."""
  batch, length = tokens.shape
  c = program.config
  if length == 0:
    zeros = jnp.zeros((batch, c.kv_heads, capacity, c.head_size), c.dtype)
    return tuple(KeyValues(zeros, zeros + 0).cached for _ in range(c.num_layers))
  _, layers = modules.apply(
    program.model, params, tokens, frame_ids, length - lengths, method="prefill"
  )

  def place(x: Array, axis: int) -> Array:
    x = jnp.pad(x, [(0, capacity if i == axis else 0) for i in range(x.ndim)])
    return lax.dynamic_slice_in_dim(x, length - longest, capacity, axis=axis)

  return tuple(layer.cached.map(place) for layer in layers)


def _repeated_fn(tree: PyTree, rows: Int[Array | np.ndarray, "batch"]) -> PyTree:
  """Returns the given rows of each array of a tree; a row may be repeated."""

  def chosen(x: Array) -> Array:
    return x[rows]

  return jax.tree.map(chosen, tree)


def _decode_fn(
  program: AutoregressiveProgram,
  params: Params,
  inputs: LoopInputs,
  state: LoopState,
  stop: Int[Array, ""],
) -> LoopState:
  """Draws tokens until each row has `stop` tokens."""
  capacity = state.cache[0].length
  model = program.model
  bias = modules.apply(model, params, capacity + SEGMENT, method="distance_bias")[0]

  def draw_segment(state: LoopState) -> LoopState:
    count = jnp.minimum(SEGMENT, stop - state.step)
    key_index = jnp.arange(capacity)
    held = (key_index >= inputs.padding[:, None]) & (key_index < state.cursor)
    held = jnp.where(held, 0.0, MASKED)[:, None, :]

    def draw_one(index: Int[Array, ""], carry: _Carry) -> _Carry:
      token, recent, drawn, codes = carry
      position = state.cursor + index
      old_bias = _reversed_window(bias, position, capacity) + held
      new_bias = _reversed_window(bias[:, :SEGMENT], index, SEGMENT)[None]

      def attend_with(old: Cache, new: Cache) -> Attend:
        def attend(query: Array, key_values: KeyValues) -> tuple[Array, Cache]:
          return attend_and_write(query, key_values, (old, old_bias), (new, new_bias), index)

        return attend

      step = state.step + index
      frame_id = _frame_id(program, inputs.first_frame, step)
      hidden, recent = modules.apply(
        model,
        params,
        token,
        frame_id,
        position - inputs.padding,
        [attend_with(old, new) for old, new in zip(state.cache, recent, strict=True)],
        method="decode_step",
      )
      chosen = _choose(program, params, inputs, hidden, codes, step)
      forced = cast(Array, lax.dynamic_index_in_dim(inputs.forced, step, 1, keepdims=False))
      chosen = jnp.where(forced >= 0, forced, chosen)
      drawn = cast(Array, lax.dynamic_update_index_in_dim(drawn, chosen, step, axis=1))
      return chosen, recent, drawn, _noted(program, codes, chosen, step)

    empty = tuple(layer.empty(SEGMENT) for layer in state.cache)
    begin = state.token, empty, state.drawn, state.codes
    end = cast(_Carry, lax.fori_loop(0, count, draw_one, begin))
    token, recent, drawn, codes = end
    start = cast(Array, state.cursor)
    cache = tuple(old.write(new, start) for old, new in zip(state.cache, recent, strict=True))
    return LoopState(state.step + count, state.cursor + count, token, cache, drawn, codes)

  return lax.while_loop(lambda s: s.step < stop, draw_segment, state)


# Compiled once per program, number of rows and bucket of lengths. The state is donated because its
# cache uses most of the memory.
prefill = StoredProgram(_prefill_fn, static_argnums=(0, 6))
repeated = StoredProgram(_repeated_fn)
decode = StoredProgram(_decode_fn, static_argnums=(0,), donate_argnums=(3,))


def _choose(
  program: AutoregressiveProgram,
  params: Params,
  inputs: LoopInputs,
  hidden: Float[Array, "batch embed"],
  codes: Int[Array, "batch frames levels"],
  step: Int[Array, ""],
) -> Int[Array, "batch"]:
  """Draws one legal id per row."""
  legal = _legal(program, step)
  logits = modules.apply(
    program.model, params, hidden, legal.start, legal.size, method="range_logits"
  )
  context = None
  if program.processors:
    frame, level = step // program.per_frame, step % program.per_frame
    shown = lax.dynamic_slice_in_dim(codes, frame, program.history + 1, axis=1)
    context = Context(inputs.frame + frame, level + program.spec.first_target_quantizer, shown)
  return draw_legal(legal, logits, step, inputs, program.processors, context)


def _legal(program: AutoregressiveProgram, step: Int[Array, ""]) -> LegalIds:
  """Returns the legal ids of a step: all ids of the semantic stream or of the drawn level."""
  spec = program.spec
  found = spec.layout.legal_range(step, spec.first_target_quantizer, spec.num_target_quantizers)
  return LegalIds(*found)


def _noted(
  program: AutoregressiveProgram,
  codes: Int[Array, "batch frames levels"],
  chosen: Int[Array, "batch"],
  step: Int[Array, ""],
) -> Int[Array, "batch frames levels"]:
  """Returns the codes, updated with the ids `chosen` at a step."""
  if not program.processors:
    return codes
  code = (chosen - _legal(program, step).start)[:, None, None]
  frame = program.history + step // program.per_frame
  level = program.spec.first_target_quantizer + step % program.per_frame
  return lax.dynamic_update_slice(codes, code, (0, frame, level))


def _frame_id(
  program: AutoregressiveProgram,
  first_frame: Int[Array | np.ndarray, "batch"],
  step: Int[Array, ""],
) -> Int[Array, "batch"] | None:
  """Returns the frame ids of the tokens to draw; None for a model without frame embeddings."""
  rows = program.config.num_frame_embeddings
  if not rows:
    return None
  if program.spec.predicts_semantic:
    return jnp.zeros_like(first_frame)
  # Steps after the end of a row may exceed the table; their tokens are not used.
  return jnp.minimum(first_frame + step // program.per_frame, rows - 1)


def _reversed_window(
  bias: Float[Array, "heads distances"], position: Int[Array, ""], length: int
) -> Float[Array, "heads length"]:
  """Returns the sum of bias and causal mask of keys 0 .. length - 1 for a query at `position`.

  With bias b by distance, position 1 and length 4:   b1 b0 -- --   (-- is MASKED)
  """
  future = jnp.full((bias.shape[0], length), MASKED, bias.dtype)
  diagonal = jnp.concatenate([jnp.flip(bias, axis=1), future], axis=1)
  start = bias.shape[1] - 1 - position
  return lax.dynamic_slice_in_dim(diagonal, start, length, axis=1)
