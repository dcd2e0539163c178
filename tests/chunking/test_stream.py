import numpy as np
import pytest

from audiolm_jax.chunking import ChunkStream
from tests.chunking.toys import TOYS, UNIT, clip, margined, neighbours, running_sum


def streamed(stream, rows, pieces):
  found, at = [], 0
  for piece in [*pieces, rows.shape[1]]:
    found.append(stream.push(rows[:, at : at + piece]))
    at += piece
  return np.concatenate([*found, stream.flush()], axis=1)


@pytest.mark.parametrize("make", TOYS)
@pytest.mark.parametrize(
  "pieces", [[], [1] * 40, [3000], [2 * UNIT, 3 * UNIT, UNIT, 200], [0, 7, 0]]
)
@pytest.mark.parametrize("inputs", [0, 3, UNIT, 113 * UNIT + 2])
def test_streamed_equals_whole_whatever_the_pieces(make, pieces, inputs):
  toy = make()
  rows = np.stack([clip(inputs, seed) for seed in range(2)])
  found = streamed(ChunkStream(toy.model, 2), rows, pieces)
  expected = np.stack([toy.expected(row)[: found.shape[1]] for row in rows])
  assert found.shape[1] == len(toy.expected(rows[0])) if inputs else found.shape[1] == 0
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_stream_waits_for_what_a_frame_depends_on_and_keeps_no_more():
  stream = ChunkStream(neighbours().model)
  rows = clip(100 * UNIT)[None]
  assert stream.push(rows[:, : 2 * UNIT]).shape == (1, 0)
  assert stream.push(rows[:, 2 * UNIT : 3 * UNIT]).shape == (1, 2)
  assert stream.push(rows[:, 3 * UNIT :]).shape == (1, 2 * 97)
  assert stream._kept.shape[1] == (3 + 2) * UNIT  # pyright: ignore[reportOptionalMemberAccess]: it is not None
  assert stream.flush().shape == (1, 2 * 2)


def test_a_stream_with_margins_waits_for_them_too():
  stream = ChunkStream(margined().model)
  assert stream.push(np.ones((1, 2 * UNIT))).shape == (1, 0)
  assert stream.push(np.ones((1, 1))).shape == (1, 1)


def test_chunks_of_a_carried_state_use_all_inputs_in_few_sizes():
  toy = running_sum()
  stream = ChunkStream(toy.model)
  for frames in (45, 31, 5):
    stream.push(clip(frames * UNIT)[None])
  assert [size for _, size in toy.calls] == [16, 16, 8, 5, 16, 8, 7, 5]
  assert stream._kept.shape[1] == 0  # pyright: ignore[reportOptionalMemberAccess]: it is not None


def test_the_first_chunk_has_the_frames_that_it_needs():
  toy = running_sum(first=7)
  stream = ChunkStream(toy.model)
  assert stream.push(clip(6 * UNIT)[None]).shape[1] == 0
  assert stream.push(clip(UNIT)[None]).shape[1] == 6
  stream.push(clip(UNIT)[None])
  assert toy.calls == [(1, 7), (1, 1)]
  short = ChunkStream(toy.model)
  short.push(clip(2 * UNIT)[None])
  np.testing.assert_allclose(short.flush()[0], toy.expected(clip(2 * UNIT)), rtol=1e-6)
  assert toy.calls[-1] == (1, 7)


def test_nothing_pushed_gives_nothing():
  assert ChunkStream(running_sum().model, 3).flush().shape == (3, 0, 2)
