"""Tokens of clips, in NumPy."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from audiolm_jax.core.streams import CODES, SEMANTIC


@dataclasses.dataclass(frozen=True)
class Encoded:
  """Tokens of a clip, or of several.

  Attributes:
    streams: by key. Of one clip [steps] or [steps, levels]; of several with the batch's axes
      before, or a tuple of [steps] where lengths differ, as sampled ones do where repeats are
      collapsed.
  """

  streams: Mapping[str, Any]

  @property
  def semantic(self) -> Any:
    """[steps], each in [0, num_clusters); () where there are none."""
    return self.streams.get(SEMANTIC, ())

  @property
  def codes(self) -> Any:
    """[frames, quantizers], each in [0, codebook_size), coarse levels first."""
    return self.streams[CODES]
