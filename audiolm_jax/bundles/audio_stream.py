"""Iterates over the pieces of a waveform while its codes are sampled."""

from collections.abc import Callable, Generator, Iterator

import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.bundles.bundle import Bundle
from audiolm_jax.io.encoded import Encoded
from audiolm_jax.sampling.cascade import CascadeResult

Cut = Callable[[np.ndarray, int], np.ndarray]


class AudioStream(Iterator[Float[np.ndarray, "_piece"]]):
  """An iterator over the pieces of a sampled waveform.

  Args:
    bundle: the bundle whose codec decodes the codes.
    codes: a generator that yields pieces of codes and returns all tokens.
    samples: number of samples of all pieces together.
    prompt_samples: number of samples at the beginning that belong to the prompt.
    cut: called with a decoded piece and the index of its first sample in the waveform; returns the
      part of the piece to yield.

  Attributes:
    sample_rate: Hz.
    samples: number of samples of all pieces together.
    prompt_samples: number of samples at the beginning that belong to the prompt.
    tokens: tokens of the whole waveform, see `Continuation`; None until the iterator has ended.
  """

  def __init__(
    self,
    bundle: Bundle,
    codes: Generator[Int[np.ndarray, "_frames quantizers"], None, CascadeResult],
    samples: int,
    prompt_samples: int,
    cut: Cut,
  ):
    self.sample_rate = bundle.sample_rate
    self.samples = samples
    self.prompt_samples = prompt_samples
    self.tokens: Encoded | None = None
    self._pieces = self._decoded(bundle, codes, cut)

  def __next__(self) -> Float[np.ndarray, "piece"]:
    return next(self._pieces)

  def _decoded(
    self,
    bundle: Bundle,
    codes: Generator[Int[np.ndarray, "_frames quantizers"], None, CascadeResult],
    cut: Cut,
  ) -> Iterator[Float[np.ndarray, "_piece"]]:
    decoder = bundle.codec.stream_decoder()
    decoded, result = 0, None
    while result is None:
      try:
        waveform = np.asarray(decoder.push(next(codes)[None]))
      except StopIteration as end:
        result, waveform = end.value, np.asarray(decoder.flush())
      shown = cut(waveform[0], decoded)
      decoded += waveform.shape[1]
      if len(shown):
        yield shown
    self.tokens = Encoded({key: rows[0] for key, rows in result.streams.items()})
