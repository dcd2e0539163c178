"""Runs models in chunks, with the same declaration of a model for long clips and for streams.

A `ChunkedModel` declares a model:

- `step(inputs, ends, state) -> (results, state)` maps a chunk of whole frames. `ends` is the number
  of inputs from the start of the chunk to the end of each clip. The inputs after the end of a clip
  are zeros; a model that uses other padding needs `ends` to find the end.
- `left` and `right`: the numbers of earlier and later frames that the result of a frame depends on.
- `initial_state(batch)`: the state at the start of a clip, if a state carries the past from chunk
  to chunk. With a state, `left` is 0 and the results of a chunk lag `right` frames behind its
  inputs. Without a state, chunks overlap. Each chunk then has `left` frames before and `right`
  frames after the frames whose results are kept, except at the ends of a clip.
- `sizes`: the numbers of frames that a chunk may have; they are few, so that few programs are
  compiled.

`run` and `ChunkStream` run the model, and both use `plan`:

- `plan` cuts a clip into chunks and selects the results of each chunk to keep.
- `run` maps clips of unequal lengths, in bounded memory and several at a time.
- `ChunkStream` maps inputs as they are pushed and returns each result as soon as it is final.

`run` and `ChunkStream` return the results that the model computes for each clip alone in one chunk,
except for rounding: matrix products of different shapes round differently.

The example computes the sum of three neighbours in chunks of at most four frames. Each result
depends on one frame before and one frame after its own frame:

>>> import numpy as np
>>> def step(inputs, ends, state):
...   inside = np.arange(inputs.shape[1]) < ends[:, None]
...   padded = np.pad(np.where(inside, inputs, 0), ((0, 0), (1, 1)))
...   return padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:], state
>>> nothing = np.zeros(0, np.float32)
>>> model = ChunkedModel(step, nothing, Sizes.in_steps(4, 2), left=1, right=1)
>>> for chunk in plan(model, 5): print(chunk)
Chunk(start=0, size=4, keep_from=0, keep_to=3, done=3)
Chunk(start=2, size=4, keep_from=1, keep_to=3, done=5)
>>> [row.tolist() for row in run(model, [np.arange(5), np.ones(2)], batch_size=2)]
[[1.0, 3.0, 6.0, 9.0, 7.0], [2.0, 2.0]]
>>> stream = ChunkStream(model)
>>> stream.push(np.arange(3)[None]).tolist(), stream.push(np.arange(3, 5)[None]).tolist()
([[1.0, 3.0]], [[6.0, 9.0]])
>>> stream.flush().tolist()
[[7.0]]
"""

from audiolm_jax.chunking.model import ChunkedModel, Reach, Sizes, Sliced, zero_state
from audiolm_jax.chunking.plan import Chunk, plan
from audiolm_jax.chunking.run import clips_of, rows_of, run
from audiolm_jax.chunking.stream import ChunkStream

__all__ = [
  "Chunk",
  "ChunkStream",
  "ChunkedModel",
  "Reach",
  "Sizes",
  "Sliced",
  "clips_of",
  "plan",
  "rows_of",
  "run",
  "zero_state",
]
