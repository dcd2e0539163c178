"""Random keys: one for each row of each draw, so that rows do not depend on their company."""

import functools
import hashlib
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Key, UInt32

from audiolm_jax.io.stored_program import StoredProgram

# Stages of before stages had hashes keep their numbers, and so their tokens.
_NUMBERS = {"semantic": 0, "coarse": 1, "fine": 2}


def draw_keys(
  seed: int, stage: str, index: int, folds: Sequence[tuple[int, ...]]
) -> Key[Array, "rows"]:
  """The keys of one draw.

  Args:
    stage: its name sets its draws apart from those of other stages.
    index: sets apart the draws of one stage.
    folds: for each row what distinguishes it from others, its sample's number first.
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
  """Each row's key: the seed's, with one of the row's numbers after the other folded into it."""
  key = jax.random.key(seed)
  return jax.vmap(lambda row: functools.reduce(jax.random.fold_in, row, key))(numbers)


_row_keys = StoredProgram(_row_keys_fn)
