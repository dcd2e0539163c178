"""The token layout: maps semantic tokens and acoustic codes to the ids of one sequence.

    id                               meaning
    0 .. 3                           pad, begin of sequence, end of sequence, separator
    4 .. 4 + K - 1                   semantic token z (K = num_clusters; none if K = 0)
    4 + K + q * N + code             acoustic code of quantizer q (N = codebook_size)

Codes [frames, quantizers] are flattened in row-major order. The methods of `TokenLayout` accept
NumPy and JAX arrays. `collapse_repeats` and `cut_runs` accept NumPy arrays only, because the shapes
of their results depend on the data.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer

from audiolm_jax.core.errors import ConfigError

PAD = 0
BOS = 1
EOS = 2
SEPARATOR = 3
NUM_RESERVED = 4

Array = Any  # numpy.ndarray or jax.Array


class IdRange(NamedTuple):
  """A contiguous range of ids, `start <= id < start + size`."""

  start: int
  size: int


@dataclasses.dataclass(frozen=True)
class TokenLayout:
  """The vocabulary of a stage.

  Attributes:
    num_clusters: size of the semantic vocabulary; 0 for a stage without semantic tokens.
    num_quantizers: number of residual levels in the vocabulary; 0 for a purely semantic stage.
    codebook_size: codes per quantizer.
  """

  num_clusters: int = 1024
  num_quantizers: int = 12
  codebook_size: int = 1024

  def __post_init__(self):
    if self.num_clusters < 0 or self.num_quantizers < 0 or self.codebook_size < 1:
      raise ConfigError(
        f"token layout needs num_clusters >= 0, num_quantizers >= 0 and codebook_size >= 1, "
        f"got {self.num_clusters}, {self.num_quantizers} and {self.codebook_size}"
      )

  @property
  def vocab_size(self) -> int:
    """Number of ids, including reserved ids."""
    return NUM_RESERVED + self.num_clusters + self.num_quantizers * self.codebook_size

  @property
  def semantic_range(self) -> IdRange:
    """The ids of semantic tokens."""
    return IdRange(NUM_RESERVED, self.num_clusters)

  def quantizer_range(self, quantizer: int | Integer[Array, "..."]) -> IdRange:
    """Returns the ids of the codes of one quantizer; `quantizer` may be a traced integer."""
    start = NUM_RESERVED + self.num_clusters + quantizer * self.codebook_size
    return IdRange(start, self.codebook_size)

  def legal_range(
    self, position: int | Integer[Array, "..."], first_quantizer: int, num_target_quantizers: int
  ) -> IdRange:
    """Returns the range of legal ids at a position of the target tokens.

    Args:
      position: index into the flattened target tokens; may be traced.
      first_quantizer: quantizer of the first token of each frame.
      num_target_quantizers: tokens per frame; 0 if the targets are semantic tokens.
    """
    if num_target_quantizers == 0:
      return self.semantic_range
    return self.quantizer_range(first_quantizer + position % num_target_quantizers)

  def semantic_to_ids(
    self, semantic: Integer[Array, "*batch steps"]
  ) -> Integer[Array, "*batch steps"]:
    """Converts cluster numbers to ids."""
    return semantic + NUM_RESERVED

  def ids_to_semantic(self, ids: Integer[Array, "*batch steps"]) -> Integer[Array, "*batch steps"]:
    """Converts ids to cluster numbers."""
    return ids - NUM_RESERVED

  def flatten_codes(
    self, codes: Integer[Array, "*batch frames quantizers"], first_quantizer: int = 0
  ) -> Integer[Array, "*batch frames*quantizers"]:
    """Converts codes of consecutive quantizers, from `first_quantizer` on, to a row of ids.

    Raises:
      ConfigError: the layout does not contain all of these quantizers.
    """
    frames, count = codes.shape[-2:]
    offsets = self._offsets(first_quantizer, count)
    return (codes + offsets).reshape((*codes.shape[:-2], frames * count))

  def unflatten_ids(
    self,
    ids: Integer[Array, "*batch tokens"],
    num_quantizers: int,
    first_quantizer: int = 0,
  ) -> Integer[Array, "*batch frames quantizers"]:
    """Inverts `flatten_codes`; the number of tokens must be a multiple of `num_quantizers`.

    Raises:
      ConfigError: the layout does not contain all of these quantizers.
    """
    frames = ids.shape[-1] // num_quantizers
    codes = ids.reshape((*ids.shape[:-1], frames, num_quantizers))
    return codes - self._offsets(first_quantizer, num_quantizers)

  def _offsets(self, first_quantizer: int, count: int) -> np.ndarray:
    if first_quantizer + count > self.num_quantizers:
      raise ConfigError(
        f"quantizers {first_quantizer} to {first_quantizer + count - 1} are outside of a layout "
        f"with {self.num_quantizers}"
      )
    quantizers = first_quantizer + np.arange(count, dtype=np.int32)
    start = NUM_RESERVED + self.num_clusters
    return (start + quantizers * self.codebook_size).astype(np.int32)


def collapse_repeats(tokens: Integer[np.ndarray, "steps"]) -> Integer[np.ndarray, "kept"]:
  """Removes each token that equals the previous token.

  Source: AudioLM, section III-C: consecutive repeats of semantic tokens are removed.
  """
  return cut_runs(tokens, 1)


def cut_runs(
  tokens: Integer[np.ndarray, "steps"], longest: int | None
) -> Integer[np.ndarray, "kept"]:
  """Cuts each run of equal tokens to its first `longest` tokens; None keeps all tokens."""
  tokens = np.asarray(tokens)
  if longest is None:
    return tokens
  begins = np.concatenate([[True], tokens[1:] != tokens[:-1]])[: len(tokens)]
  steps = np.arange(len(tokens))
  since = steps - np.maximum.accumulate(np.where(begins, steps, 0))
  return tokens[since < longest]
