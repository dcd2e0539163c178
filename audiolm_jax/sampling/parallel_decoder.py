"""Fills in the codes of windows, level by level; each pass keeps its most confident codes.

The codes of a window before each pass:

    level 1, pass 1    level 1, pass 2    level 1, pass 3    level 2, pass 1
    y y . . .          y y . 3 .          y y 7 3 .          y y 7 3 5          codes of level 1
    y y . . .          y y . . .          y y . . .          y y . . .          codes of level 2

Here, y is a known code, a number is a drawn code, and a dot is a masked code.

A pass runs two programs: `encode` runs the layers; `choose` draws the masked codes of one level and
masks the least confident of them again. The level, the number of the pass and all settings are
traced arguments, so the number of programs does not depend on the numbers of levels and passes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from audiolm_jax.core import modules
from audiolm_jax.core.arrays import Array, PyTree
from audiolm_jax.core.errors import UserError
from audiolm_jax.core.modules import Params
from audiolm_jax.io.stored_program import StoredProgram
from audiolm_jax.lm.parallel import UNKNOWN, ParallelConfig, ParallelSpec
from audiolm_jax.lm.stage import Stage
from audiolm_jax.sampling.decoder import ready, row_bucket, rows_of
from audiolm_jax.sampling.logits import Controls, SamplingOptions, controlled
from audiolm_jax.sampling.processors import Context, Processor, apply

# Number of padded lengths of windows; programs are compiled once per length.
BUCKETS = 4
# Maximum bytes of attention weights per batch; more rows are sampled in turns, one batch per turn.
ATTENTION_BYTES = 2**29
# Exclusive upper limit of the number of passes of a level.
_PASSES = 4096

Progress = Callable[[int, int], None]


class Gap(NamedTuple):
  """A window of one row.

  Attributes:
    semantic: the semantic token of each frame.
    known: codes of the first frames, which do not change.
    start: position of the first frame in the clip, in frames; random numbers depend on it.
  """

  semantic: Int[np.ndarray, "frames"]
  known: Int[np.ndarray, "known levels"]
  start: int = 0


class Rows(NamedTuple):
  """The windows of a batch as arrays.

  Attributes:
    keys: random key of each row.
    starts: position of the first frame of each window in its clip, in frames.
    known: number of known frames of each window.
    lengths: number of frames of each window, without padding.
  """

  keys: Key[Array, "rows"]
  starts: Int[Array, "rows"]
  known: Int[Array, "rows"]
  lengths: Int[Array, "rows"]


class Pass(NamedTuple):
  """The settings of a pass.

  Attributes:
    level: the level to draw.
    number: number of the pass within its level, from 0.
    masked: share of the new frames that are masked after the pass.
    choice_noise: scale of the Gumbel noise that is added to the confidences.
    guidance: see `FillingConfig`.
    controls: temperature, top-k and top-p.
    arrays: the arrays of each processor.
  """

  level: Int[Array | np.int32, ""]
  number: Int[Array | np.int32, ""]
  masked: Float[Array | np.float32, ""]
  choice_noise: Float[Array | np.float32, ""]
  guidance: Float[Array | np.float32, ""]
  controls: Controls
  arrays: tuple[PyTree, ...] = ()


class ParallelDecoder:
  """Samples codes from a parallel stage.

  The constructor unstacks the parameters, casts them and moves them to the device.

  Args:
    stage: spec, config and parameters.
    dtype: dtype of the computation; by default float32 on CPU, else the dtype of the config.
  """

  def __init__(self, stage: Stage, *, dtype: str | None = None):
    config: ParallelConfig = stage.config
    if dtype is None:
      dtype = "float32" if jax.default_backend() == "cpu" else config.transformer.dtype
    shape = config.shape()
    layers = dataclasses.replace(shape.transformer, dtype=dtype)
    self.spec = cast(ParallelSpec, stage.spec)
    self.filling = config.filling
    self.config = dataclasses.replace(shape, transformer=layers)
    self.params = ready(stage.spec.inference_params(stage.params), dtype)

  def fill(
    self,
    gaps: Sequence[Gap],
    keys: Key[Array, "rows"],
    options: SamplingOptions | None = None,
    *,
    progress: Progress | None = None,
  ) -> list[Int[np.ndarray, "_ levels"]]:
    """Returns the codes of each window: the known codes, then the drawn codes.

    Args:
      gaps: one window per row.
      keys: one random key per row. The key of a row and the position of a frame in its clip
        determine the random numbers of the frame.
      options: settings of sampling.
      progress: called with the numbers of drawn and total codes per row; if the rows do not fit in
        one batch, the numbers of all batches are summed.

    Raises:
      UserError: the numbers of passes do not fit the stage, see `passes`.
    """
    options = options or SamplingOptions()
    longest = max(len(gap.semantic) for gap in gaps)
    per_turn = self._per_turn(longest)
    turns = range(0, len(gaps), per_turn)
    total = len(turns) * longest * self.spec.num_quantizers
    results: list[Int[np.ndarray, "_ levels"]] = []
    for turn, start in enumerate(turns):
      part = [*range(start, min(start + per_turn, len(gaps)))]

      def report(levels: int, turn: int = turn) -> None:
        if progress is not None:
          progress(longest * (turn * self.spec.num_quantizers + levels), total)

      results += self._filled([gaps[i] for i in part], rows_of(keys, part), options, report)
    return results

  def prepare(
    self, gaps: Sequence[Gap], keys: Key[Array, "rows"], options: SamplingOptions | None = None
  ) -> None:
    """Starts to load or compile the programs of `fill` in the background; draws nothing.

    Args:
      gaps: windows with the lengths of the windows of `fill`.
      keys: see `fill`.
      options: see `fill`.
    """
    options = options or SamplingOptions()
    first = [*range(min(len(gaps), self._per_turn(max(len(gap.semantic) for gap in gaps))))]
    codes, semantic, rows = self._arrays([gaps[i] for i in first], rows_of(keys, first))
    layers = self.config.transformer
    zero = np.zeros((), jnp.dtype(layers.dtype))
    # The first level with guidance and the first without, because guidance doubles the input rows.
    levels = {self._is_guided(level, options): level for level in reversed(self._own(options))}
    for level in sorted(levels.values()):
      inputs = self._inputs(semantic, level, options)
      encode.prepare(self.spec, self.config, self.params, codes, inputs, rows.lengths)
      hidden = np.broadcast_to(zero, (*inputs.shape, layers.dim))
      if options.passes == ():
        choose_point.prepare(self.spec, self.config, self.params, hidden, codes, rows)
      else:
        settings = self._pass(options, level, 0, 1)
        static = self.spec, self.config, options.processors
        choose.prepare(*static, self.params, hidden, codes, rows, settings)

  def _filled(
    self,
    gaps: Sequence[Gap],
    keys: Key[Array, "rows"],
    options: SamplingOptions,
    report: Callable[[int], None],
  ) -> list[Int[np.ndarray, "_ levels"]]:
    codes, semantic, rows = self._arrays(gaps, keys)
    fixed = self.spec, self.config, self.params
    static = self.spec, self.config, options.processors
    report(0)
    if options.passes == ():
      hidden = encode(*fixed, codes, semantic, rows.lengths)
      codes = choose_point(*fixed, hidden, codes, rows)
    else:
      hidden = None
      for level, count in enumerate(self.passes(options)):
        inputs = self._inputs(semantic, level, options)
        for number in range(max(count, 1)):
          if hidden is None or count:
            hidden = encode(*fixed, codes, inputs, rows.lengths)
          settings = self._pass(options, level, number, max(count, 1))
          codes = choose(*static, self.params, hidden, codes, rows, settings)
        report(level + 1)
    found = np.asarray(codes)
    return [found[row, : len(gap.semantic)] for row, gap in enumerate(gaps)]

  def passes(self, options: SamplingOptions) -> tuple[int, ...]:
    """Returns the number of passes of each level.

    Raises:
      UserError: the options have numbers for more levels than the stage has, 0 for the first level,
        or a number out of range.
    """
    levels = self.spec.num_quantizers
    passes = self.filling.passes if options.passes is None else options.passes
    if len(passes) > levels or passes[0] < 1 or not 0 <= min(passes) <= max(passes) < _PASSES:
      raise UserError(
        f"passes {'/'.join(map(str, passes))} of the {self.spec.name} stage: give at most {levels} "
        f"numbers below {_PASSES}, at least 1 for the first level"
      )
    return (*passes, *[1] * levels)[:levels]

  def _pass(self, options: SamplingOptions, level: int, number: int, count: int) -> Pass:
    done = (number + 1) / count
    temperature = options.temperature * self.filling.temperature(level)
    return Pass(
      np.int32(level),
      np.int32(number),
      np.float32(math.cos(math.pi / 2 * done) if done < 1 else 0.0),
      np.float32(self.filling.choice_noise * (1 - done)),
      np.float32(self._guidance(options)),
      options.controls._replace(temperature=np.float32(temperature)),
      tuple(processor.arrays() for processor in options.processors),
    )

  def _guidance(self, options: SamplingOptions) -> float:
    return self.filling.guidance if options.guidance is None else options.guidance

  def _own(self, options: SamplingOptions) -> list[int]:
    """Returns the levels that have at least one pass; [0] if `passes` is ()."""
    if options.passes == ():
      return [0]
    return [level for level, count in enumerate(self.passes(options)) if count]

  def _is_guided(self, level: int, options: SamplingOptions) -> bool:
    guided = self.filling.guided_levels
    is_within = guided is None or level < guided
    return self._guidance(options) != 1 and options.passes != () and is_within

  def _inputs(
    self, semantic: Int[np.ndarray, "rows frames"], level: int, options: SamplingOptions
  ) -> Int[np.ndarray, "inputs frames"]:
    """Returns the semantic tokens of the rows; guidance adds as many rows of `UNKNOWN`."""
    if not self._is_guided(level, options):
      return semantic
    return np.concatenate([semantic, np.full_like(semantic, UNKNOWN)])

  def _arrays(
    self, gaps: Sequence[Gap], keys: Key[Array, "rows"]
  ) -> tuple[Int[np.ndarray, "rows frames levels"], Int[np.ndarray, "rows frames"], Rows]:
    """Returns codes, semantic tokens and `Rows`, with rows and frames padded to a bucket."""
    order = [*range(len(gaps)), *[0] * (row_bucket(len(gaps)) - len(gaps))]
    padded = [gaps[row] for row in order]
    unit = -(-self.spec.crop_frames // BUCKETS)
    frames = -(-max(len(gap.semantic) for gap in gaps) // unit) * unit
    codes = np.full((len(order), frames, self.spec.num_quantizers), UNKNOWN, np.int32)
    semantic = np.full(codes.shape[:2], UNKNOWN, np.int32)
    for row, gap in enumerate(padded):
      codes[row, : len(gap.known)] = gap.known
      semantic[row, : len(gap.semantic)] = gap.semantic
    numbers = [(gap.start, len(gap.known), len(gap.semantic)) for gap in padded]
    starts, known, lengths = np.array(numbers, np.int32).T
    return codes, semantic, Rows(rows_of(keys, order), starts, known, lengths)

  def _per_turn(self, frames: int) -> int:
    """Returns the largest number of rows whose attention fits in `ATTENTION_BYTES`, at least 1."""
    return max(1, ATTENTION_BYTES // (8 * self.config.transformer.num_heads * frames**2))


@functools.partial(StoredProgram[Array], static_argnums=(0, 1))
def encode(
  spec: ParallelSpec,
  config: ParallelConfig,
  params: Params,
  codes: Int[Array, "rows frames levels"],
  semantic: Int[Array, "inputs frames"],
  lengths: Int[Array, "rows"],
) -> Float[Array, "inputs frames embed"]:
  """Returns the output of the layers; with guidance, each row has two input rows, see `_inputs`."""
  times = semantic.shape[0] // codes.shape[0]
  valid = jnp.tile(_frames(codes) < lengths[:, None], (times, 1))
  inputs = jnp.tile(codes, (times, 1, 1)), semantic, valid
  return modules.apply(spec.model(config), params, *inputs, method="hidden")


@functools.partial(StoredProgram[Array], static_argnums=(0, 1, 2))
def choose(
  spec: ParallelSpec,
  config: ParallelConfig,
  processors: tuple[Processor, ...],
  params: Params,
  hidden: Float[Array, "inputs frames embed"],
  codes: Int[Array, "rows frames levels"],
  rows: Rows,
  settings: Pass,
) -> Int[Array, "rows frames levels"]:
  """Draws the masked codes of a level, and masks the least confident of them again."""
  count, frames, _ = codes.shape
  model, times = spec.model(config), hidden.shape[0] // count
  seen = jnp.tile(codes, (times, 1, 1))
  vectors = modules.apply(model, params, seen, method="vectors")
  logits = modules.apply(
    model, params, hidden, vectors, seen, settings.level, method="level_logits"
  )
  if times == 2:
    without = logits[count:]
    logits = without + settings.guidance * (logits[:count] - without)
  flat = logits.reshape(count * frames, -1)
  if processors:
    frame = (rows.starts[:, None] + _frames(codes)).reshape(-1)
    context = Context(frame, jnp.asarray(settings.level), codes.reshape(count * frames, 1, -1))  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
    flat = apply(processors, settings.arrays, flat, context)
  uniform = _uniform(rows, frames, settings).reshape(count * frames, 2)
  drawn, confidence = _drawn(flat, uniform[:, 0], settings.controls)
  noise = -jnp.log(-jnp.log(jnp.clip(uniform[:, 1], 1e-7, 1 - 1e-7)))
  greedy = settings.controls.temperature == 0
  confidence += jnp.where(greedy, 0.0, settings.choice_noise) * noise

  current = codes[..., settings.level]
  unknown = (current == UNKNOWN) & _is_new(codes, rows)
  confidence = jnp.where(unknown, confidence.reshape(count, frames), jnp.inf)
  rank = jnp.argsort(jnp.argsort(confidence, axis=1), axis=1)
  masked = jnp.floor(settings.masked * (rows.lengths - rows.known)).astype(jnp.int32)
  kept = unknown & (rank >= masked[:, None])
  return codes.at[..., settings.level].set(jnp.where(kept, drawn.reshape(count, frames), current))


@functools.partial(StoredProgram[Array], static_argnums=(0, 1))
def choose_point(
  spec: ParallelSpec,
  config: ParallelConfig,
  params: Params,
  hidden: Float[Array, "rows frames embed"],
  codes: Int[Array, "rows frames levels"],
  rows: Rows,
) -> Int[Array, "rows frames levels"]:
  """Predicts the sum of the codec's vectors of each new frame and selects the nearest codes."""
  model = spec.model(config)
  point = modules.apply(model, params, hidden, method="predicted_point")
  nearest = modules.apply(model, params, point, method="nearest_codes")
  return jnp.where(_is_new(codes, rows)[..., None], nearest, codes)


def _frames(codes: Int[Array, "rows frames levels"]) -> Int[Array, "frames"]:
  return jnp.arange(codes.shape[1])  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types


def _is_new(codes: Int[Array, "rows frames levels"], rows: Rows) -> Bool[Array, "rows frames"]:
  frame = _frames(codes)
  return (frame >= rows.known[:, None]) & (frame < rows.lengths[:, None])


def _uniform(rows: Rows, frames: int, settings: Pass) -> Float[Array, "rows frames 2"]:
  """Returns uniform random numbers, which depend on the row's key, the frame and the pass."""
  draw = settings.level * _PASSES + settings.number

  def of_frame(key: Key[Array, ""], frame: Int[Array, ""]) -> Float[Array, "2"]:
    return jax.random.uniform(jax.random.fold_in(key, frame), (2,))

  def of_row(key: Key[Array, ""], start: Int[Array, ""]) -> Float[Array, "frames 2"]:
    key = jax.random.fold_in(key, draw)
    return jax.vmap(of_frame, (None, 0))(key, start + jnp.arange(frames))  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types

  return jax.vmap(of_row)(rows.keys, rows.starts)


def _drawn(
  logits: Float[Array, "entries size"], uniform: Float[Array, "entries"], controls: Controls
) -> tuple[Int[Array, "entries"], Float[Array, "entries"]]:
  """Draws a code per entry by inversion of the cumulative distribution.

  This needs one random number per entry. One random number per code, as in `logits.draw`, would
  take longer than the output layer.

  Returns:
    The codes and their log-probabilities. Temperature 0 selects the most likely codes.
  """
  greedy = controls.temperature == 0
  scaled = jnp.where(greedy, logits, controlled(logits, controls))
  log_probabilities = jax.nn.log_softmax(scaled)
  below = jnp.cumsum(jnp.exp(log_probabilities), axis=-1)
  found = jnp.sum(below <= uniform[:, None] * below[:, -1:], axis=-1)
  found = jnp.minimum(found, logits.shape[-1] - 1)
  drawn = jnp.where(greedy, jnp.argmax(logits, axis=-1), found).astype(jnp.int32)
  return drawn, jnp.take_along_axis(log_probabilities, drawn[:, None], axis=-1)[:, 0]
