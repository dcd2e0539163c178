"""Watermarks of sampled codes: processors that prefer the codes of some communities.

Communities are sets of codes, see `detection/watermark.py`. The context of a code, its position
or earlier codes, is known before the code is sampled. The watermark therefore does not depend on
batches, windows and streaming.
"""

# jax.numpy leaves out the types of some parameters, such as `device`.
# pyright: reportUnknownMemberType=false

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt32

from audiolm_jax.core.arrays import Array, PyTree
from audiolm_jax.core.errors import UserError
from audiolm_jax.detection import green_list
from audiolm_jax.detection.green_list import ABSENT
from audiolm_jax.detection.watermark import Watermark, WatermarkKind, payload_words
from audiolm_jax.sampling.logits import only
from audiolm_jax.sampling.processors import Context, Processor

# A context that occurred in this number of previous frames (4 s at 50 Hz) is not marked again.
# Equal contexts have equal noise, so otherwise sounds could repeat.
FRESH_FRAMES = 200


@dataclasses.dataclass(frozen=True)
class GreenList(Processor):
  """Adds a bias to the logits of green codes.

  The key and the context of a code determine which communities are green. Codes at levels without
  watermark and codes with an unknown context have no bias.

  Attributes:
    frames: number of earlier frames in the context.
    coarser: number of coarser levels of the same frame in the context.
    count: maximum number of communities of a level.
    communities: [levels, size], the community of each code.
    key: key of the watermark, four uint32 words.
    strength: the bias.
    payload: two uint32 words from `payload_words`.
    period: number of frames after which positions repeat, if the context is the position; 0 if the
      context consists of codes.
  """

  frames: int
  coarser: int
  count: int
  communities: UInt32[np.ndarray, "levels size"] = dataclasses.field(compare=False, repr=False)
  key: UInt32[np.ndarray, "4"] = dataclasses.field(compare=False, repr=False)
  strength: np.float32 = dataclasses.field(compare=False, repr=False)
  payload: UInt32[np.ndarray, "2"] = dataclasses.field(compare=False, repr=False)
  period: int = 0

  @property
  def history(self) -> int:
    """The number of earlier frames in the context."""
    return self.frames

  def arrays(self) -> PyTree:
    """Returns communities, key, strength and payload."""
    return self.communities, self.key, self.strength, self.payload

  def __call__(
    self, logits: Float[Array, "batch size"], context: Context, arrays: PyTree
  ) -> Float[Array, "batch size"]:
    """Adds the bias to the logits of green codes."""
    communities, key, strength, payload = (jnp.asarray(array) for array in arrays)
    levels = len(communities)
    is_marked = jnp.asarray(context.level) < levels
    level = jnp.minimum(context.level, levels - 1)
    own, number = jnp.arange(self.count, dtype=jnp.uint32), level.astype(jnp.uint32)
    entries, known = _contexts(context.codes, level, communities, self.frames, self.coarser)
    if self.period:
      position = (jnp.asarray(context.frame) % self.period).astype(jnp.uint32)[:, None]
      low, high = green_list.counters_at(position, number, own)
    else:
      low, high = green_list.counters(number, entries, own)
    green = green_list.is_green(list(key), low, high, payload[0], payload[1])
    green = jnp.broadcast_to(green, (len(logits), self.count))
    bias = jnp.take(green, communities[level], axis=1) & known & is_marked
    return logits + strength * bias


@dataclasses.dataclass(frozen=True)
class Gumbel(Processor):
  """Draws the community of a code with Gumbel noise from the key, and masks all other communities.

  The community is the argmax of log P + noise, where P is the sum of the probabilities of the codes
  of a community. So each code has its original probability on average over keys. A code is not
  marked if its level has no watermark, if its context is unknown, or if an equal context occurred
  in the previous `FRESH_FRAMES` frames.

  Attributes:
    frames: number of earlier frames in the context.
    coarser: number of coarser levels of the same frame in the context.
    count: maximum number of communities of a level.
    communities: [levels, size], the community of each code.
    key: key of the watermark, four uint32 words.

  Source: Aaronson, Watermarking of large language models (2022).
  """

  frames: int
  coarser: int
  count: int
  communities: UInt32[np.ndarray, "levels size"] = dataclasses.field(compare=False, repr=False)
  key: UInt32[np.ndarray, "4"] = dataclasses.field(compare=False, repr=False)

  @property
  def history(self) -> int:
    """The number of earlier frames in the context and in the earlier contexts to compare."""
    return FRESH_FRAMES + self.frames

  @property
  def is_last(self) -> bool:
    """True, because P is computed after temperature, top-k and top-p."""
    return True

  def arrays(self) -> PyTree:
    """Returns communities and key."""
    return self.communities, self.key

  def __call__(
    self, logits: Float[Array, "batch size"], context: Context, arrays: PyTree
  ) -> Float[Array, "batch size"]:
    """Sets logits of codes outside of the drawn community to -inf, in rows that are marked."""
    communities, key = (jnp.asarray(array) for array in arrays)
    is_marked = jnp.asarray(context.level) < len(communities)
    level = jnp.minimum(context.level, len(communities) - 1)
    number, own = level.astype(jnp.uint32), communities[level]
    entries, known = _contexts(context.codes, level, communities, self.frames, self.coarser)
    low, high = green_list.counters(number, entries, jnp.zeros((1, 1), jnp.uint32))
    repeated = known & (low == low[:, -1:]) & (high == high[:, -1:])
    fresh = is_marked & known[:, -1] & ~repeated[:, :-1].any(axis=1)
    every = jnp.arange(self.count, dtype=jnp.uint32)
    counters = green_list.counters(number, [entry[:, -1:] for entry in entries], every)
    exponential = -jnp.log1p(-green_list.uniform(list(key), *counters))
    of_codes = jax.nn.softmax(logits, axis=-1).T
    of_communities = jax.ops.segment_sum(of_codes, own, num_segments=self.count).T
    chosen = jnp.argmin(exponential / of_communities, axis=1)
    return only(logits, (own == chosen[:, None]) | ~fresh[:, None])


def _contexts(
  codes: Int[Array, "batch shown levels"],
  level: Int[Array, ""],
  communities: UInt32[Array, "marked size"],
  frames: int,
  coarser: int,
) -> tuple[list[UInt32[Array, "batch count"]], Bool[Array, "batch count"]]:
  """Returns the contexts of codes at one level, and whether each context is known.

  Args:
    codes: codes of consecutive frames; -1 for unknown codes. The first `frames` frames have no
      context.
    level: the level of the codes whose contexts are returned.
    communities: the community of each code.
    frames: number of earlier frames in the context.
    coarser: number of coarser levels of the same frame in the context.
  """
  count = codes.shape[1] - frames
  known = jnp.ones((len(codes), count), bool)
  entries: list[Array] = []
  # In the order of `Watermark.entries`.
  for lag in range(1, frames + 1):
    code = jnp.take(codes[:, frames - lag :][:, :count], level, axis=2)
    entries.append(communities[level, code])
    known &= code >= 0
  for number in range(coarser):
    is_coarser = level > number
    # If `number` is not a coarser level, the entry is absent and this code is not used.
    code = codes[:, frames:, min(number, codes.shape[2] - 1)]
    found = communities[min(number, len(communities) - 1), code]
    entries.append(jnp.where(is_coarser, found, np.uint32(ABSENT)))
    known &= (code >= 0) | ~is_coarser
  return entries, known


def mark_of(
  watermark: Watermark, key: UInt32[np.ndarray, "4"], strength: float, payload: bytes = b""
) -> Processor:
  """Returns the processor that marks codes.

  Args:
    watermark: the watermark of the bundle.
    key: key of the watermark, four uint32 words.
    strength: the bias of green codes; 1 for a gumbel watermark.
    payload: 1 or 4 bytes; b"" for none.

  Raises:
    UserError: the payload has a wrong length; or a gumbel watermark is given a payload or a
      strength other than 1.
  """
  communities, config = np.asarray(watermark.communities), watermark.config
  of_codes = communities.astype(np.uint32)
  shape = config.frames, config.coarser, 1 + int(communities.max())
  if config.kind is WatermarkKind.GREEN_LIST:
    settings = key, np.float32(strength), payload_words(payload)
    return GreenList(*shape, of_codes, *settings, config.period)
  if payload:
    raise UserError("a gumbel watermark carries no payload; omit watermark_payload")
  if strength != 1:
    raise UserError(f"watermark is {strength:g}; a gumbel watermark is 1 or off")
  return Gumbel(*shape, of_codes, key)
