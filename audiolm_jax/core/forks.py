"""Detects a process that was forked from one that uses JAX, in which JAX would wait for ever."""

import os

from audiolm_jax.core.errors import UserError

_user: list[int] = []  # the process that first used JAX


def check() -> None:
  """Records the process that uses JAX.

  Raises:
    UserError: this process was forked from that one, whose threads it does not have.
  """
  if not _user:
    _user.append(os.getpid())
  elif _user[0] != os.getpid():
    raise UserError(
      "this process was forked from one that already uses JAX, and JAX would wait for ever here; "
      "start it with multiprocessing.get_context('spawn'), or load the bundle only after the fork"
    )
