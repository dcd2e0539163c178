"""Random keys: one per row and draw, so that rows do not depend on each other."""

import functools
import hashlib
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Key, UInt32

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.keys import new_key
from audiolm_jax.io.stored_program import StoredProgram

# The names of all other stages are hashed. These numbers give the tokens of older versions.
_NUMBERS = {"semantic": 0, "coarse": 1, "fine": 2}


def draw_keys(
  seed: int, stage: str, index: int, folds: Sequence[tuple[int, ...]]
) -> Key[Array, "rows"]:
  """Returns the random keys of one draw, one key per row.

  Args:
    seed: the seed of the call.
    stage: name of the stage; stages have different keys.
    index: number of the draw; the draws of a stage have different keys.
    folds: for each row, the numbers that are folded into its key; the first is the number of the
      sample. Rows with different numbers have different keys.
  """
  if stage in _NUMBERS:
    own: tuple[int, ...] = (_NUMBERS[stage] + len(_NUMBERS) * index,)
  else:
    own = (int.from_bytes(hashlib.sha256(stage.encode()).digest()[:4], "big"), index)
  numbers = np.array([(*fold, *own) for fold in folds], np.uint32)
  return _row_keys(np.uint32(seed), numbers)


def _row_keys_fn(
  seed: UInt32[Array | np.ndarray | np.uint32, ""],
  numbers: UInt32[Array | np.ndarray, "rows count"],
) -> Key[Array, "rows"]:
  """Returns the key of each row: the seed's key, into which the row's numbers are folded."""
  key = new_key(seed)

  def of_row(row: UInt32[Array | np.ndarray, "count"]) -> Key[Array, ""]:
    return functools.reduce(jax.random.fold_in, row, key)

  return jax.vmap(of_row)(numbers)


_row_keys = StoredProgram(_row_keys_fn)
