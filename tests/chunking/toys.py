"""Models that are arithmetic, each with a function that gives its results for a whole clip."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from audiolm_jax.chunking import ChunkedModel, Sizes

UNIT = 4


class Toy(NamedTuple):
  """A model; what it makes of a clip alone; and the shapes of the chunks that it received."""

  model: ChunkedModel
  expected: Callable[[np.ndarray], np.ndarray]
  calls: list


def neighbours(largest: int = 16) -> Toy:
  """Sums over three frames before and two after; outside of the clip there are ones."""
  calls = []

  def sums(means):
    padded = np.pad(means, ((0, 0), (3, 2)), constant_values=1.0)
    return sum((i + 1) * padded[:, i : i + means.shape[1]] for i in range(6))

  def step(inputs, ends, state):
    calls.append((len(inputs), inputs.shape[1] // UNIT))
    means = inputs.reshape(len(inputs), -1, UNIT).mean(axis=-1)
    inside = np.arange(means.shape[1]) < -(-ends[:, None] // UNIT)
    return np.repeat(sums(np.where(inside, means, 1.0)), 2, axis=1), state

  def expected(clip):
    means = np.pad(clip, (0, -len(clip) % UNIT)).reshape(-1, UNIT).mean(axis=-1)
    return np.repeat(sums(means[None])[0], 2)  # pyright: ignore[reportIndexIssue]: a sum of arrays

  nothing = np.zeros(0, np.float32)
  sizes = Sizes.in_steps(largest, 4)
  return Toy(ChunkedModel(step, nothing, sizes, left=3, right=2, unit=UNIT), expected, calls)


def running_sum(largest: int = 16, first: int = 1) -> Toy:
  """Sums of all frames so far and of the next one, which a state carries."""
  calls = []

  def step(inputs, ends, state):
    calls.append((len(inputs), inputs.shape[1] // UNIT))
    inside = np.arange(inputs.shape[1]) < ends[:, None]
    frames = np.where(inside, inputs, 0).reshape(len(inputs), -1, UNIT).sum(axis=-1)
    sums = state[:, None] + np.cumsum(frames, axis=1)
    return np.stack([sums, -sums], axis=-1), sums[:, -1]

  def expected(clip):
    frames = np.pad(clip, (0, -len(clip) % UNIT)).reshape(-1, UNIT).sum(axis=-1)
    sums = np.append(np.cumsum(frames), frames.sum())[1:]
    return np.stack([sums, -sums], axis=-1)

  model = ChunkedModel(
    step,
    np.zeros((0, 2)),
    Sizes.in_steps(largest, 4),
    np.zeros,
    right=1,
    first=first,
    unit=UNIT,
    dtype=np.float64,
  )
  return Toy(model, expected, calls)


def margined(largest: int = 16) -> Toy:
  """Largest input of a frame, of two inputs before it, one after it and its neighbour frames."""
  calls = []

  def step(inputs, ends, state):
    calls.append((len(inputs), (inputs.shape[1] - 3) // UNIT))
    windows = np.lib.stride_tricks.sliding_window_view(inputs, UNIT + 3, axis=1)[:, ::UNIT]
    inside = np.arange(windows.shape[1]) < -(-ends[:, None] // UNIT)
    peaks = np.pad(np.where(inside, windows.max(axis=-1), 0), ((0, 0), (1, 1)))
    return np.maximum(np.maximum(peaks[:, :-2], peaks[:, 1:-1]), peaks[:, 2:]), state

  def expected(clip):
    padded = np.pad(clip, (2, -len(clip) % UNIT + 1))
    peaks = [padded[i : i + UNIT + 3].max() for i in range(0, len(clip), UNIT)]
    padded = np.pad(np.array(peaks), 1)
    return np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:])

  model = ChunkedModel(
    step,
    np.zeros(0, np.float32),
    Sizes(largest, lambda rest: -(-rest // 4) * 4),
    left=1,
    right=1,
    unit=UNIT,
    margins=(2, 1),
    pooled=True,
  )
  return Toy(model, expected, calls)


TOYS = (neighbours, running_sum, margined)


def clip(inputs: int, seed: int = 0) -> np.ndarray:
  """Uniform numbers from 0 to 1."""
  return np.random.default_rng(seed).uniform(0, 1, inputs).astype(np.float32)
