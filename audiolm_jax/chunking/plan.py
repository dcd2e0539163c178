"""Where a clip is cut into chunks."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from audiolm_jax.chunking.model import ChunkedModel


class Chunk(NamedTuple):
  """`size` frames from frame `start` of a clip; of their results some are kept.

  The kept ones are the next results of the clip, up to frame `done`. A chunk may reach beyond the
  clip's end.
  """

  start: int
  size: int
  keep_from: int
  keep_to: int
  done: int


def plan(
  model: ChunkedModel,
  frames: int,
  done: int | None = None,
  until: int | None = None,
  size: Callable[[int, int], int] | None = None,
) -> Iterator[Chunk]:
  """Chunks that give the results `done` to `until` of a clip.

  All that a kept result depends on is in its chunk, or in the state.

  Args:
    frames: of the clip, as far as they are known.
    done: frame up to which there are results; at a clip's start None.
    until: frame up to which there shall be results, by default the clip's end.
    size: frames of the chunk from a frame on, with so many frames to go; by default `model.size`.
  """
  until, size = frames if until is None else until, size or model.size
  lag = model.lag
  done = -lag if done is None else done
  # The results of a model that carries a state come late, so it goes on behind the clip's end.
  available = until + lag if model.carried else frames
  while 0 < until > done:
    start = model.start(done)
    rest = available - start
    length = size(start, rest)
    stop = until if rest <= length else min(until, start + length - model.right)
    first = start - lag  # frame of the chunk's first result
    yield Chunk(start, length, max(0, done) - first, stop - first, stop)
    done = stop
