"""The tokens of clips as NumPy arrays."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from audiolm_jax.core.streams import CODES, SEMANTIC


@dataclasses.dataclass(frozen=True)
class Encoded:
  """The tokens of one clip or of several clips.

  Attributes:
    streams: the tokens by stream key. The tokens of one clip are an array [steps] or
      [steps, levels]. The tokens of several clips have leading batch axes. If the lengths of the
      clips differ, for example after repeats were collapsed in sampling, the tokens are a tuple
      with one array per clip.
  """

  streams: Mapping[str, Any]

  @property
  def semantic(self) -> Any:
    """The semantic tokens, in [0, num_clusters); () if there are none."""
    return self.streams.get(SEMANTIC, ())

  @property
  def codes(self) -> Any:
    """The acoustic codes, in [0, codebook_size), with coarse levels first in the last axis."""
    return self.streams[CODES]
