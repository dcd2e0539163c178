"""Many clips through a codec at once."""

import abc
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.codec.interface import CodecSpec

Encode = Callable[
  [Float[np.ndarray, "batch samples"], Int[np.ndarray, "batch"]], Int[np.ndarray, "batch frames q"]
]


def encode_side_by_side(
  encode: Encode,
  waveforms: Sequence[Float[np.ndarray, "samples"]],
  batch_size: int,
  hop_length: int,
) -> list[Int[np.ndarray, "frames q"]]:
  """Codes of each clip; clips of like length go through together.

  Alone and together differ only where two entries of a codebook are as near to a latent as
  rounding. What does not fill a batch goes one by one, so that few shapes are compiled.

  Args:
    encode: codes of rows that end in zeros, given the samples of each that count.
    waveforms: one clip each.
    batch_size: clips that go together.
    hop_length: samples per frame.
  """
  order = sorted(range(len(waveforms)), key=lambda clip: len(waveforms[clip]))
  whole = len(order) // batch_size * batch_size
  batches = [order[first : first + batch_size] for first in range(0, whole, batch_size)]
  codes: dict[int, np.ndarray] = {}
  for clips in batches + [[clip] for clip in order[whole:]]:
    lengths = np.array([len(waveforms[clip]) for clip in clips])
    rows = [np.pad(waveforms[clip], (0, lengths[-1] - len(waveforms[clip]))) for clip in clips]
    for clip, row, length in zip(clips, encode(np.stack(rows), lengths), lengths, strict=True):
      codes[clip] = row[: -(-length // hop_length)]
  return [codes[clip] for clip in range(len(waveforms))]


class RowEncoder(abc.ABC):
  """What a codec that encodes rows of unequal lengths, of any length, can do with clips."""

  @property
  @abc.abstractmethod
  def spec(self) -> CodecSpec:
    """The numbers that describe its codes."""

  @abc.abstractmethod
  def encode(
    self,
    waveform: Float[np.ndarray | jax.Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Int[np.ndarray, "batch frames q"]:
    """Codes of rows, of each row's first `lengths` samples."""

  def prepare_decode(self, frames: int) -> None:
    """Does nothing: a codec whose programs are not stored has none to load."""
    del frames

  def encode_long(self, waveform: Float[np.ndarray, "samples"]) -> Int[np.ndarray, "frames q"]:
    """Codes of one long clip in bounded memory; equal to `encode`."""
    return self.encode(np.asarray(waveform)[None])[0]

  def encode_clips(
    self, waveforms: Sequence[Float[np.ndarray, "samples"]], batch_size: int
  ) -> list[Int[np.ndarray, "frames q"]]:
    """Codes of each clip, as of `encode_long`, but clips of like length go side by side."""
    return encode_side_by_side(self.encode, waveforms, batch_size, self.spec.hop_length)
