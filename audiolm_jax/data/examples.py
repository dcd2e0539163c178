"""Training examples from clips: random crops whose place depends on nothing but their seed.

Pure numpy. A seed is a pair of integers; the SeqIO tasks and the in-memory readers call the same
functions, so that the same seed is the same crop in both.
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

Seed = tuple[int, int]

_CROP, _GAIN = 0, 1  # one stream of random numbers for each decision


class WaveformCrop(NamedTuple):
  """A crop and how many of its samples, from the first, come from the clip."""

  waveform: Float[np.ndarray, " num_samples"]
  length: int


def generator(seed: Seed, stream: int = 0) -> np.random.Generator:
  """A fresh generator of a pair of integers, the same on every machine.

  Args:
    seed: each integer counts modulo 2**64.
    stream: separate numbers from the same seed.
  """
  key = [int(s) % 2**64 for s in seed]
  return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


def crop_start(length: int, crop: int, seed: Seed) -> int:
  """First index of a random crop, every whole one equally likely; 0 where the clip is shorter."""
  return int(generator(seed, _CROP).integers(0, max(0, length - crop) + 1))


def crop_waveform(
  waveform: Float[np.ndarray, " samples"], num_samples: int, seed: Seed
) -> WaveformCrop:
  """A random crop of exactly `num_samples`; a shorter clip is kept whole and zero padded.

  Works on 16-bit samples as well, which stay 16-bit.
  """
  start = crop_start(len(waveform), num_samples, seed)
  crop = waveform[start : start + num_samples]
  padded = np.zeros(num_samples, waveform.dtype)
  padded[: len(crop)] = crop
  return WaveformCrop(padded, len(crop))


def jitter_gain(
  waveform: Float[np.ndarray, " samples"], gain_db: tuple[float, float], seed: Seed
) -> Float[np.ndarray, " samples"]:
  """The waveform at a random level; one that would clip is made just loud enough not to.

  Args:
    gain_db: lowest and highest gain in dB, uniform in between.
  """
  gain = 10.0 ** (generator(seed, _GAIN).uniform(*gain_db) / 20.0)
  peak = float(np.max(np.abs(waveform), initial=0.0))
  return waveform * np.float32(min(gain, 1.0 / peak) if peak > 0 else gain)


def to_pcm16(waveform: Float[np.ndarray, "*shape"]) -> Int16[np.ndarray, "*shape"]:
  """16-bit samples of a waveform in [-1, 1]; exact where it came from a 16-bit file."""
  return np.clip(np.rint(waveform * np.float32(32768)), -32768, 32767).astype(np.int16)


def from_pcm16(pcm: Int16[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
  """The waveform of 16-bit samples, float32 in [-1, 1)."""
  return pcm.astype(np.float32) / np.float32(32768)


def num_crops(length: float, crop: float) -> int:
  """How many crops of a clip make an epoch, so that each second of a corpus counts alike."""
  return max(1, round(length / crop))


def segments(num_samples: int, segment_samples: int) -> list[tuple[int, int]]:
  """Start and end of consecutive parts of at most 1.5 and at least 0.5 `segment_samples`."""
  count = num_crops(num_samples, segment_samples)
  bounds = [i * segment_samples for i in range(count)] + [num_samples]
  return list(itertools.pairwise(bounds))


def crop_tokens(spec: StageSpec, record: Record, seed: Seed) -> Record:
  """A random crop as long as the stage's examples: the same stretch of time in all its streams.

  It starts where a step of each stream starts (at 25 Hz and 50 Hz: on every step of 25 Hz), each
  such place equally likely. A shorter clip is kept whole, as is any of a stage without crops.
  """
  grid = _Grid.of(spec)
  start = crop_start(grid.whole_cells(record), grid.crop_cells, seed)
  return grid.cut(record, start)


def token_cells(spec: StageSpec, record: Record) -> tuple[int, int]:
  """Length of a clip and of a crop in the cells in which crops start; see `num_crops`."""
  grid = _Grid.of(spec)
  return grid.whole_cells(record), grid.crop_cells


def token_windows(spec: StageSpec, record: Record) -> list[Record]:
  """Consecutive crops that cover the clip's whole cells, the last one shorter."""
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
  """Features of one random crop of 16-bit samples, at a random level where `gain_db` is given.

  Returns:
    `waveform` float32 [num_samples], zero padded; `length` int32, the samples before the padding.
  """
  crop = crop_waveform(pcm, num_samples, seed)
  waveform = from_pcm16(crop.waveform)
  if gain_db is not None:
    waveform = jitter_gain(waveform, gain_db, seed)
  return {"waveform": waveform, "length": np.asarray(crop.length, np.int32)}


def stage_example(spec: StageSpec, record: Record, seed: Seed) -> Example:
  """Model features of one random crop, as the stage lays them out."""
  return spec.example(crop_tokens(spec, record, seed))


def stack(examples: Sequence[Example]) -> Example:
  """A batch of examples with the same features."""
  return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


class _Grid(NamedTuple):
  """The common time grid of the streams that a stage uses.

  Attributes:
    spec: of the stage.
    steps: tokens per cell of each stream; empty where a clip is one cell, as a whole.
    crop_cells: cells of a crop.
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
    # The shortest time that holds whole steps of all streams.
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
          f"the {self.spec.name} stage needs the stream {key}, and the clip has none; make the "
          "tokens with it"
        )
    return min((len(record[key]) // count for key, count in self.steps.items()), default=1)

  def cut(self, record: Record, start: int) -> Record:
    end = start + self.crop_cells
    return {
      key: record[key][start * self.steps[key] : end * self.steps[key]]
      if key in self.steps
      else record[key]
      for key in self.spec.streams
    }
