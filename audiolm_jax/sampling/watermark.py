"""Marks sampled codes: a processor that prefers codes of green communities.

The context of a code is fixed before it is sampled, so the mark is the same in batches, windows and
streams.
"""

# jax.numpy has incomplete annotations.
# pyright: reportUnknownMemberType=false

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt32

from audiolm_jax.core.arrays import Array, PyTree
from audiolm_jax.detection import green_list
from audiolm_jax.detection.green_list import ABSENT
from audiolm_jax.detection.watermark import Watermark, payload_words
from audiolm_jax.sampling.processors import Context, Processor


@dataclasses.dataclass(frozen=True)
class GreenList(Processor):
  """Adds a bias to the logits of green codes.

  Codes of other levels, and those whose context is unknown, are not biased.

  Attributes:
    frames: earlier frames in the context.
    coarser: coarser levels of the same frame in the context.
    count: number of communities of a level, at most.
    communities: [levels, size], the community of each code.
    key: four uint32 words.
    strength: the bias.
    payload: two uint32 words, of `payload_words`.
  """

  frames: int
  coarser: int
  count: int
  communities: Any = dataclasses.field(compare=False, repr=False)
  key: Any = dataclasses.field(compare=False, repr=False)
  strength: Any = dataclasses.field(compare=False, repr=False)
  payload: Any = dataclasses.field(compare=False, repr=False)

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
    """Adds the bias."""
    communities, key, strength, payload = (jnp.asarray(array) for array in arrays)
    levels = len(communities)
    is_marked = jnp.asarray(context.level) < levels
    level = jnp.minimum(context.level, levels - 1)
    known = jnp.full(len(logits), is_marked)
    entries: list[Array] = []
    # In the order of `Watermark.entries`.
    for lag in range(1, self.frames + 1):
      code = jnp.take(context.codes[:, -1 - lag], level, axis=1)
      entries.append(communities[level, code])
      known &= code >= 0
    for coarser in range(self.coarser):
      is_coarser = level > coarser
      # A level without coarser ones has no such entry, whatever is read here.
      code = context.codes[:, -1, min(coarser, context.codes.shape[2] - 1)]
      found = communities[min(coarser, levels - 1), code]
      entries.append(jnp.where(is_coarser, found, np.uint32(ABSENT)))
      known &= (code >= 0) | ~is_coarser
    own = jnp.arange(self.count, dtype=jnp.uint32)
    low, high = green_list.counters(
      level.astype(jnp.uint32), [entry[:, None] for entry in entries], own
    )
    green = green_list.is_green(list(key), low, high, payload[0], payload[1])
    green = jnp.broadcast_to(green, (len(logits), self.count))
    bias = jnp.take(green, communities[level], axis=1) & known[:, None]
    return logits + strength * bias


def green_list_of(
  watermark: Watermark, key: UInt32[np.ndarray, "4"], strength: float, payload: bytes = b""
) -> GreenList:
  """Returns the processor that marks codes.

  Args:
    watermark: the watermark of the bundle.
    key: of the green list.
    strength: the bias of green codes.
    payload: one byte or four; b"" for none.
  """
  communities = np.asarray(watermark.communities)
  return GreenList(
    watermark.config.frames,
    watermark.config.coarser,
    1 + int(communities.max()),
    communities.astype(np.uint32),
    key,
    np.float32(strength),
    payload_words(payload),
  )
