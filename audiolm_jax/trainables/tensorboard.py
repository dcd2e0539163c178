"""Creates the writer of the TensorBoard files of a run."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from audiolm_jax.training.run_log import SummaryWriter


def summary_writer(folder: Path) -> SummaryWriter:
  """Returns a writer of TensorBoard files in a folder.

  Raises:
    ImportError: TensorFlow or CLU is not installed.
  """
  with _silent_stderr():
    from clu import metric_writers

    from audiolm_jax.data.tensorflow_setup import keep_off_gpu
  keep_off_gpu()
  return metric_writers.SummaryWriter(str(folder))


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
  """Returns a context that discards all output to the file descriptor of stderr.

  The libraries of TensorFlow write to this file descriptor when they are loaded.
  """
  sys.stderr.flush()
  kept = os.dup(2)
  null = os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(null, 2)
    yield
  finally:
    os.dup2(kept, 2)
    os.close(kept)
    os.close(null)
