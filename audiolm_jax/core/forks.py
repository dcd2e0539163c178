"""Detects that this process was forked after JAX started; JAX would then block forever."""

import os

from audiolm_jax.core.errors import UserError

_user: list[int] = []  # the process that first used JAX


def check() -> None:
  """Checks that this process was not forked after JAX started.

  The first call records the process. Call this function before each use of JAX.

  Raises:
    UserError: the process was forked after the first call; the threads of JAX do not exist in a
      forked process.
  """
  if not _user:
    _user.append(os.getpid())
  elif _user[0] != os.getpid():
    raise UserError(
      "this process was forked from one that already uses JAX, and JAX would wait for ever here; "
      "start it with multiprocessing.get_context('spawn'), or load the bundle only after the fork"
    )
