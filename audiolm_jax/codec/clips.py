"""Many clips through a codec at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int


def encode_side_by_side(
  codec: Any, waveforms: Sequence[Float[np.ndarray, "samples"]], batch_size: int
) -> list[Int[np.ndarray, "frames q"]]:
  """Codes of each clip, as of `encode_long`, but clips of like length go side by side.

  The two differ only where two entries of a codebook are as near to a latent as rounding.
  What does not fill a batch goes one by one, so that few shapes are compiled.

  Args:
    codec: its `encode` takes the samples of each row that count.
    waveforms: one clip each.
    batch_size: clips that go together.
  """
  order = sorted(range(len(waveforms)), key=lambda clip: len(waveforms[clip]))
  codes: dict[int, np.ndarray] = {}
  for first in range(0, len(order), batch_size):
    clips = order[first : first + batch_size]
    if len(clips) < batch_size:
      codes |= {clip: codec.encode_long(waveforms[clip]) for clip in clips}
      continue
    lengths = np.array([len(waveforms[clip]) for clip in clips])
    rows = [np.pad(waveforms[clip], (0, lengths[-1] - len(waveforms[clip]))) for clip in clips]
    found = codec.encode(np.stack(rows), lengths)
    for clip, row, length in zip(clips, found, lengths, strict=True):
      codes[clip] = row[: -(-length // codec.spec.hop_length)]
  return [codes[clip] for clip in range(len(waveforms))]
