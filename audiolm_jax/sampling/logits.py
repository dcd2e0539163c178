"""Draws tokens from logits: legal ids, temperature, top-k, top-p."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool, Float, Int, Key

from audiolm_jax.core import arguments, ranges
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.configs import shown
from audiolm_jax.core.errors import UserError
from audiolm_jax.core.plain_json import is_list

if TYPE_CHECKING:
  from audiolm_jax.sampling.processors import Processor


_TEMPERATURES = ranges.Range(0, 1_000_000)  # at the limit, all tokens have equal probability
_GUIDANCE = ranges.Range(0, 1_000_000)
_PASSES = ranges.Range(0, 4_096)
_LOOKAHEAD = ranges.Range(0, 3_600)  # seconds
_TOP_K = ranges.Range(0, 2**24)  # 0 for all; no vocabulary is larger


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
  """Settings of the sampling of a stage.

  Attributes:
    temperature: divides the logits; 0 selects the most likely token.
    top_k: draws among the k most likely tokens; 0 for all.
    top_p: draws among the most likely tokens whose probabilities sum to p; 1 for all. Applied after
      the temperature and top-k.
    processors: processors of the logits, applied in this order before the temperature, or after
      top-p if their `is_last` is true.
    passes: for a parallel stage, the number of passes of each level, as in `FillingConfig`. () for
      a single pass, which predicts the sum of the codec's vectors of each frame and selects the
      nearest codes. None for the stage's default.
    guidance: for a parallel stage, see `FillingConfig`; None for the stage's default.
    lookahead: for a parallel stage, the seconds of new audio in the first window; each further
      window has twice as many as the previous window, up to the length of the stage's windows. None
      for windows of full length.

  Raises:
    UserError: a value is out of range or has the wrong type.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0
  processors: "tuple[Processor, ...]" = ()
  passes: Sequence[int] | None = None
  guidance: float | None = None
  lookahead: float | None = None

  def __post_init__(self):
    arguments.number(self.temperature, "temperature", _TEMPERATURES)
    object.__setattr__(self, "top_k", arguments.whole(self.top_k, "top_k", _TOP_K))
    if not arguments.number(self.top_p, "top_p", ranges.Range(0, 1)):
      raise UserError("top_p is 0, so no token could be drawn; set 1 for all tokens")
    if self.guidance is not None:
      arguments.number(self.guidance, "guidance", _GUIDANCE)
    if self.lookahead is not None and not arguments.number(self.lookahead, "lookahead", _LOOKAHEAD):
      raise UserError("lookahead is 0, so no window would have new audio; give more seconds")
    if self.passes is not None:
      if not is_list(self.passes):
        raise UserError(
          f"passes is {shown(self.passes)}; give the passes of each level, such as (8, 1)"
        )
      passes = tuple(arguments.whole(value, "a number of passes", _PASSES) for value in self.passes)
      object.__setattr__(self, "passes", passes)

  def check_sequential(self, name: str) -> None:
    """Raises a `UserError` if settings of parallel stages are given for the stage `name`."""
    if any(value is not None for value in (self.passes, self.guidance, self.lookahead)):
      raise UserError(f"the {name} stage takes no passes, guidance or lookahead; omit them")

  @property
  def controls(self) -> "Controls":
    """The settings as arrays, so that new values do not cause a new compilation."""
    return Controls(
      np.float32(self.temperature),
      np.int32(self.top_k) if self.top_k else None,
      np.float32(self.top_p) if self.top_p < 1 else None,
    )


class Controls(NamedTuple):
  """Settings of `SamplingOptions` that JAX traces; None omits a filter from the program."""

  temperature: Float[Array | np.float32, ""]
  top_k: Int[Array | np.int32, ""] | None = None
  top_p: Float[Array | np.float32, ""] | None = None


def only(
  logits: Float[Array, "batch vocab"], legal: Bool[Array | np.ndarray, "*#batch vocab"]
) -> Float[Array, "batch vocab"]:
  """Sets the logits of ids that are not legal to -inf."""
  return jnp.where(legal, logits, -jnp.inf)


def keep_top_k(
  logits: Float[Array, "batch vocab"], k: Int[Array | np.int32, ""] | int
) -> Float[Array, "batch vocab"]:
  """Keeps the k largest logits of each row and ties with the k-th; sets all others to -inf."""
  return _keep(logits, lambda above: jnp.sum(above, axis=-1) < k)


def keep_top_p(
  logits: Float[Array, "batch vocab"], p: Float[Array | np.float32, ""] | float
) -> Float[Array, "batch vocab"]:
  """Keeps the most likely ids until their probabilities sum to p; sets other logits to -inf.

  Ties with the least likely of the kept ids are kept too.

  Source: Holtzman et al. (arXiv 1904.09751), nucleus sampling.
  """
  probabilities = jax.nn.softmax(logits, axis=-1)
  return _keep(logits, lambda above: jnp.sum(jnp.where(above, probabilities, 0.0), axis=-1) < p)


def _keep(
  logits: Float[Array, "batch vocab"],
  is_kept: Callable[[Bool[Array, "batch vocab"]], Bool[Array, "batch"]],
) -> Float[Array, "batch vocab"]:
  """Sets the logits of a row below a threshold to -inf.

  The threshold is the smallest value that `is_kept` accepts. Bisection finds it in 32 steps, one
  step per bit of a float. With a sort, XLA:CPU would take ten times as long.

  Args:
    logits: float32 logits.
    is_kept: returns whether a value of each row is kept, from a mask of the logits above the value.
      If it keeps a value, it keeps all larger values; it always keeps the largest logit.
  """
  bits = lax.bitcast_convert_type(logits + 0.0, jnp.int32)  # + 0.0 changes -0.0 to 0.0
  ordered = jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integers in the order of the floats

  def halve(_: Int[Array, ""], ends: tuple[Array, Array]) -> tuple[Array, Array]:
    low, high = ends
    middle = (low & high) + ((low ^ high) >> 1)  # the mean, rounded down, without overflow
    kept = is_kept(ordered > middle[:, None])
    return jnp.where(kept, low, middle + 1), jnp.where(kept, middle, high)

  limits = jnp.iinfo(jnp.int32)
  ends = tuple(jnp.full(logits.shape[0], end, jnp.int32) for end in (limits.min, limits.max))  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
  threshold = cast(Array, lax.fori_loop(0, 32, halve, ends)[0])  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
  return jnp.where(ordered >= threshold[:, None], logits, -jnp.inf)


def controlled(
  logits: Float[Array, "batch vocab"], controls: Controls
) -> Float[Array, "batch vocab"]:
  """Divides logits by the temperature and applies top-k and top-p."""
  scaled = logits / jnp.maximum(controls.temperature, 1e-6)
  if controls.top_k is not None:
    scaled = keep_top_k(scaled, controls.top_k)
  if controls.top_p is not None:
    scaled = keep_top_p(scaled, controls.top_p)
  return scaled


def draw(
  logits: Float[Array, "batch vocab"],
  keys: Key[Array, "batch"],
  controls: Controls,
  last: Callable[[Float[Array, "batch vocab"]], Float[Array, "batch vocab"]] | None = None,
) -> Int[Array, "batch"]:
  """Draws one index per row with the random key of the row, so that rows are independent.

  Args:
    logits: logits of each row.
    keys: random key of each row.
    controls: temperature, top-k and top-p. Temperature 0 selects the largest of `logits`.
    last: function that changes the logits after temperature, top-k and top-p; None for no change.
      It has no effect at temperature 0.
  """
  scaled = controlled(logits, controls)
  if last is not None:
    scaled = last(scaled)

  def gumbel(key: Key[Array, ""]) -> Float[Array, "vocab"]:
    return jax.random.gumbel(key, logits.shape[1:])

  noise = jax.vmap(gumbel)(keys)
  greedy = controls.temperature == 0
  return jnp.argmax(jnp.where(greedy, logits, scaled + noise), axis=-1).astype(jnp.int32)
