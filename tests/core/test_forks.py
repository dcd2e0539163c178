"""A forked child of a process that uses JAX raises an error instead of waiting without end."""

import os
import select
import signal
import warnings

import jax
import numpy as np

from audiolm_jax.core import forks
from audiolm_jax.core.keys import new_key
from audiolm_jax.sampling.keys import draw_keys


def test_a_forked_child_gets_an_error():
  jax.block_until_ready(draw_keys(0, "semantic", 0, [(0,)]))
  reader, writer = os.pipe()
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # JAX and Python warn of the fork itself
    child = os.fork()
  if not child:
    try:
      draw_keys(0, "semantic", 0, [(0,)])
      message = b"no error"
    except forks.UserError as error:
      message = str(error).encode()
    os.write(writer, message)
    os._exit(0)
  answered, _, _ = select.select([reader], [], [], 30)
  message = os.read(reader, 1000).decode() if answered else "it waits"
  os.kill(child, signal.SIGKILL)
  os.waitpid(child, 0)
  os.close(reader)
  os.close(writer)
  assert "forked" in message and "get_context('spawn')" in message


def test_a_seed_gives_the_same_numbers_with_another_default_of_jax():
  expected = jax.random.uniform(new_key(7), (4,))
  with jax.default_prng_impl("rbg"):
    found = jax.random.uniform(new_key(7), (4,))
    other = jax.random.uniform(jax.random.key(7), (4,))
  np.testing.assert_array_equal(found, expected)
  assert not np.array_equal(other, expected)
