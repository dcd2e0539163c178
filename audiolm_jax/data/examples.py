"""Creates training examples: random crops that depend only on a clip and a seed.

A seed is a pair of integers. The SeqIO tasks and the in-memory readers call the same functions, so
that both create the same crop from the same clip and seed. This module does not import JAX.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int16

from audiolm_jax.core.errors import DataError
from audiolm_jax.core.streams import Record
from audiolm_jax.lm.stage import Example, StageSpec

Seed = tuple[int | np.int64, int | np.int64]

_CROP, _GAIN, _PAIR = 0, 1, 2  # separate streams of random numbers


class WaveformCrop(NamedTuple):
  """A waveform crop with zero padding, and the number of samples before the padding."""

  waveform: Float[np.ndarray, " num_samples"] | Int16[np.ndarray, " num_samples"]
  length: int


def generator(seed: Seed, stream: int = 0) -> np.random.Generator:
  """Returns a new random generator, whose numbers are the same on every machine.

  Args:
    seed: pair of integers, taken modulo 2**64.
    stream: selects one of several independent generators with the same seed.
  """
  key = [int(s) % 2**64 for s in seed]
  return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


def crop_start(length: int, crop: int, seed: Seed) -> int:
  """Returns the start of a random crop, with a uniform distribution.

  Args:
    length: length of the clip.
    crop: length of the crop.
    seed: random seed.

  Returns:
    An index in [0, length - crop]; 0 if the clip is shorter than the crop.
  """
  return int(generator(seed, _CROP).integers(0, max(0, length - crop) + 1))


def crop_waveform(
  waveform: Float[np.ndarray, " samples"] | Int16[np.ndarray, " samples"],
  num_samples: int,
  seed: Seed,
) -> WaveformCrop:
  """Returns a random crop of `num_samples` samples; a shorter clip is padded with zeros.

  The dtype of the waveform does not change.
  """
  start = crop_start(len(waveform), num_samples, seed)
  crop = waveform[start : start + num_samples]
  padded = np.zeros(num_samples, waveform.dtype)
  padded[: len(crop)] = crop
  return WaveformCrop(padded, len(crop))


def jitter_gain(
  waveform: Float[np.ndarray, " samples"], gain_db: tuple[float, float], seed: Seed
) -> Float[np.ndarray, " samples"]:
  """Returns the waveform with a random gain, limited so that its peak does not exceed 1.

  Args:
    waveform: the waveform.
    gain_db: lowest and highest gain in dB; the distribution is uniform in dB.
    seed: random seed of the gain.
  """
  gain = 10.0 ** (generator(seed, _GAIN).uniform(*gain_db) / 20.0)
  peak = float(np.max(np.abs(waveform), initial=0.0))
  return waveform * np.float32(min(gain, 1.0 / peak) if peak > 0 else gain)


def to_pcm16(waveform: Float[np.ndarray, "*shape"]) -> Int16[np.ndarray, "*shape"]:
  """Returns the 16-bit samples of a waveform in [-1, 1]; inverts `from_pcm16` exactly."""
  return np.clip(np.rint(waveform * np.float32(32768)), -32768, 32767).astype(np.int16)


def from_pcm16(pcm: Int16[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
  """Returns 16-bit samples as a float32 waveform in [-1, 1)."""
  return pcm.astype(np.float32) / np.float32(32768)


def num_crops(length: float, crop: float) -> int:
  """Returns how often a clip must occur per epoch, so that all audio has about equal weight.

  Args:
    length: length of the clip, in any unit.
    crop: length of a crop, in the unit of `length`.
  """
  return max(1, round(length / crop))


def segments(num_samples: int, segment_samples: int) -> list[tuple[int, int]]:
  """Returns the bounds (start, end) of consecutive parts with `segment_samples` samples each.

  Only the last part can differ in length: it has 0.5 to 1.5 times `segment_samples`. A clip of less
  than 1.5 times `segment_samples` is one part.
  """
  count = num_crops(num_samples, segment_samples)
  bounds = [i * segment_samples for i in range(count)] + [num_samples]
  return list(itertools.pairwise(bounds))


def crop_tokens(spec: StageSpec, record: Record, seed: Seed) -> Record:
  """Returns a random crop that covers the same time span in all streams of the stage.

  The crop lasts about `spec.crop_length` seconds. Its start has a uniform distribution over the
  times at which all streams begin a step (for streams at 25 Hz and 50 Hz: each step at 25 Hz).
  Shorter clips are returned whole. If `spec.crop_length` is None, all clips are returned whole.
  Streams without a rate are never cut.
  """
  grid = _Grid.of(spec)
  start = crop_start(grid.whole_cells(record), grid.crop_cells, seed)
  return grid.cut(record, start)


def token_cells(spec: StageSpec, record: Record) -> tuple[int, int]:
  """Returns the lengths of a clip and of a crop, in cells of `_Grid`, for `num_crops`."""
  grid = _Grid.of(spec)
  return grid.whole_cells(record), grid.crop_cells


def token_windows(spec: StageSpec, record: Record) -> list[Record]:
  """Returns consecutive crops that cover all whole cells of `_Grid` in a clip.

  The last crop may be shorter than the others.
  """
  grid = _Grid.of(spec)
  return [
    grid.cut(record, start) for start in range(0, max(1, grid.whole_cells(record)), grid.crop_cells)
  ]


def waveform_example(
  pcm: Int16[np.ndarray, " samples"],
  num_samples: int,
  seed: Seed,
  gain_db: tuple[float, float] | None = None,
) -> Example:
  """Returns the features of one random crop of 16-bit samples.

  Args:
    pcm: 16-bit samples of the clip.
    num_samples: length of the crop in samples.
    seed: random seed of the crop and the gain.
    gain_db: lowest and highest random gain in dB; None does not change the level.

  Returns:
    `waveform` float32 [num_samples], zero padded; `length` int32, the number of samples before the
    padding.
  """
  crop = crop_waveform(pcm, num_samples, seed)
  waveform = from_pcm16(crop.waveform)
  if gain_db is not None:
    waveform = jitter_gain(waveform, gain_db, seed)
  return {"waveform": waveform, "length": np.asarray(crop.length, np.int32)}


def stage_example(spec: StageSpec, record: Record, seed: Seed) -> Example:
  """Returns the model features of a stage for one random crop.

  With the probability `spec.pair_share`, `_pair` creates the features from two crops instead.
  """
  if spec.pair_share:
    random = generator(seed, _PAIR)
    if random.uniform() < spec.pair_share:
      return _pair(spec, record, random)
  return spec.example(crop_tokens(spec, record, seed))


def _pair(spec: StageSpec, record: Record, random: np.random.Generator) -> Example:
  """Returns an example from two random crops, a prompt and a target, which do not overlap.

  The prompt has at most half the length of the example; it can precede or follow the target.
  """
  grid = _Grid.of(spec)
  cells = grid.whole_cells(record)
  size = min(cells, grid.crop_cells)
  prompt = int(random.integers(0, size // 2 + 1))
  lengths = (prompt, size - prompt)
  is_first = bool(random.integers(2))
  earlier, later = lengths if is_first else lengths[::-1]
  begin = int(random.integers(0, cells - size + 1))
  end = int(random.integers(begin, cells - size + 1)) + earlier
  windows = grid.cut(record, begin, earlier), grid.cut(record, end, later)
  return spec.example_of_pair(*(windows if is_first else windows[::-1]))


def stack(examples: Sequence[Example]) -> Example:
  """Stacks examples with the same features into a batch."""
  return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


class _Grid(NamedTuple):
  """The common time grid of the streams that a stage uses.

  A cell is the shortest duration that is a whole number of steps in every stream with a rate.

  Attributes:
    spec: specification of the stage.
    steps: steps per cell, by key of each stream with a rate; empty if a clip is one cell.
    crop_cells: number of cells per crop.
  """

  spec: StageSpec
  steps: Mapping[str, int]
  crop_cells: int

  @classmethod
  def of(cls, spec: StageSpec) -> "_Grid":
    seconds = spec.crop_length
    if seconds is None:
      return cls(spec, {}, 1)
    rates = {
      key: Fraction(stream.rate).limit_denominator(1000)
      for key, stream in spec.streams.items()
      if stream.rate is not None
    }
    # In seconds: the least common multiple of the durations of the steps.
    cell = Fraction(
      math.lcm(*(rate.denominator for rate in rates.values())),
      math.gcd(*(rate.numerator for rate in rates.values())),
    )
    steps = {key: int(cell * rate) for key, rate in rates.items()}
    sizes = [spec.streams[key].steps(seconds) // count for key, count in steps.items()]
    return cls(spec, steps, max(1, min(sizes)))

  def whole_cells(self, record: Record) -> int:
    for key in self.spec.streams:
      if record.get(key) is None:
        raise DataError(
          f"the {self.spec.name} stage needs the stream {key}, which the clip does not have; "
          "tokenize the corpus with it"
        )
    return min((len(record[key]) // count for key, count in self.steps.items()), default=1)

  def cut(self, record: Record, start: int, cells: int | None = None) -> Record:
    end = start + (self.crop_cells if cells is None else cells)
    return {
      key: record[key][start * self.steps[key] : end * self.steps[key]]
      if key in self.steps
      else record[key]
      for key in self.spec.streams
    }
