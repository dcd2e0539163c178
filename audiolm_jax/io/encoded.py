"""Tokens of clips, in NumPy."""

import dataclasses

import numpy as np
from jaxtyping import Int


@dataclasses.dataclass(frozen=True)
class Encoded:
  """Tokens of a clip, or of several.

  Attributes:
    semantic: [steps], each in [0, num_clusters). Of several: [batch, steps] as encoded; a tuple of
      [steps] as sampled, since lengths differ where repeats are collapsed.
    codes: [frames, quantizers], each in [0, codebook_size), coarse levels first; of several with
      the batch's axes before.
  """

  semantic: Int[np.ndarray, "*batch steps"] | tuple[Int[np.ndarray, " steps"], ...]
  codes: Int[np.ndarray, "*batch frames quantizers"]
