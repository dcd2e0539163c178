"""Plausible ranges of the numbers in configurations, declared as the types of their fields.

    num_layers: Depth = 12

`configs.from_dict` checks the values of a file against these ranges. A configuration that is
created in Python or gin may exceed the ranges. Each range includes the values of all known models,
and no single value in its range can exhaust the memory.
"""

import dataclasses
from typing import Annotated, Literal


@dataclasses.dataclass(frozen=True)
class Range:
  """A range of numbers that includes both ends."""

  least: float
  largest: float

  def __str__(self) -> str:
    return f"{self.least:,} to {self.largest:,}".replace(",", "_")


SAMPLE_RATES = Range(1_000, 768_000)
SampleRate = Annotated[int, SAMPLE_RATES]
# Arguments of sampling.
SEEDS = Range(0, 2**32 - 1)
SAMPLES_PER_PROMPT = Range(1, 10_000)
# Layers, stacks or levels.
Depth = Annotated[int, Range(1, 1_024)]
DepthOrNone = Annotated[int, Range(0, 1_024)]
# Tokens of a stream; a stage without semantic tokens may have none.
StreamSize = Annotated[int, Range(0, 2**24)]
# Channels, dimensions or heads.
Width = Annotated[int, Range(1, 131_072)]
WidthOrNone = Annotated[int, Range(0, 131_072)]
# Entries of a codebook, clusters or classes.
Vocabulary = Annotated[int, Range(1, 2**24)]
# Taps, dilations, strides and other small counts.
Taps = Annotated[int, Range(1, 4_096)]
# Samples of a window, a hop or a spectrum.
Samples = Annotated[int, Range(1, 16_384)]
# Steps or frames of a chunk, a window or its context.
Steps = Annotated[int, Range(0, 16_384)]
# Rows of a table of position embeddings.
Rows = Annotated[int, Range(0, 2**20)]
Share = Annotated[float, Range(0.0, 1.0)]
# A positive number that is added for stability.
Epsilon = Annotated[float, Range(1e-12, 1.0)]
# A positive divisor.
Scale = Annotated[float, Range(1e-6, 1e6)]
RotaryBase = Annotated[float, Range(1.0, 1e9)]
# Seconds of a training example.
Seconds = Annotated[float, Range(1e-3, 3_600.0)]
# Events per second.
Rate = Annotated[float, Range(1e-3, 768_000.0)]
Hertz = Annotated[float, Range(0.0, 384_000.0)]
# A number of clips, tokens or speakers.
Total = Annotated[int, Range(0, 2**53)]
Hours = Annotated[float, Range(0.0, 1e9)]
Temperature = Annotated[float, Range(0.0, 100.0)]
DType = Literal["float32", "bfloat16", "float16"]
