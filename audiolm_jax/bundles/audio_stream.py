"""Sound that is heard while it is being made."""

from collections.abc import Callable, Generator, Iterator

import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.bundles.bundle import Bundle
from audiolm_jax.io.encoded import Encoded
from audiolm_jax.sampling.cascade import CascadeResult

Cut = Callable[[np.ndarray, int], np.ndarray]


class AudioStream(Iterator[Float[np.ndarray, "piece"]]):
  """The sound of a continuation, piece by piece as it is made.

  Args:
    bundle: whose codec decodes.
    codes: pieces of them, and in the end all tokens.
    samples: of all pieces together.
    prompt_samples: of them those that are the prompt, at the beginning.
    cut: what is shown of a piece that begins at a sample of the whole clip.
  Attributes:
    sample_rate: Hz.
    tokens: of the whole clip as in `Continuation`, once the iterator has ended; None until then.
  """

  def __init__(
    self,
    bundle: Bundle,
    codes: Generator[Int[np.ndarray, "frames quantizers"], None, CascadeResult],
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
    codes: Generator[Int[np.ndarray, "frames quantizers"], None, CascadeResult],
    cut: Cut,
  ) -> Iterator[Float[np.ndarray, "piece"]]:
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
