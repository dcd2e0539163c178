"""One engine for long and streamed audio: a model that maps a chunk, run over clips and streams.

A model is declared once, as a `ChunkedModel`:

- `step(inputs, ends, state) -> (results, state)` maps a chunk of whole frames. `ends` says how many
  inputs there are from the chunk's start to the end of each clip, since what follows a clip in a
  chunk is not what the model's own padding would be.
- `left` and `right`: the frames before and after a frame that its result depends on.
- `initial_state(batch)`, if a state carries the past from chunk to chunk. Then `left` is not used,
  and the results of a chunk come `right` frames after its inputs. Without a state, a chunk begins
  `left` frames before and ends `right` frames after the results that are kept of it.
- `sizes`: the few numbers of frames that a chunk may have, so that few programs are compiled.

Three things use the declaration:

- `plan` cuts a clip into chunks and says which of their results are kept.
- `run` maps clips of unequal lengths, in bounded memory and several at a time.
- `Stream` maps what is pushed, as soon as nothing still to come can change it.

All of them give what the model gives for each clip alone in one chunk, up to the rounding of
products of other shapes.

The sum of three neighbours, in chunks of at most four frames, depends on one frame to each side:

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
>>> stream = Stream(model)
>>> stream.push(np.arange(3)[None]).tolist(), stream.push(np.arange(3, 5)[None]).tolist()
([[1.0, 3.0]], [[6.0, 9.0]])
>>> stream.flush().tolist()
[[7.0]]
"""

from audiolm_jax.chunking.model import ChunkedModel, Reach, Sizes, zero_state
from audiolm_jax.chunking.plan import Chunk, plan
from audiolm_jax.chunking.run import clips_of, rows_of, run
from audiolm_jax.chunking.stream import Stream

__all__ = [
  "Chunk",
  "ChunkedModel",
  "Reach",
  "Sizes",
  "Stream",
  "clips_of",
  "plan",
  "rows_of",
  "run",
  "zero_state",
]
