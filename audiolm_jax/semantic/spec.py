"""The specification of semantic tokens."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class SemanticSpec:
  """The sample rate, the hop length and the number of ids of a semantic tokenizer.

  Attributes:
    sample_rate: Hz.
    hop_length: samples per token.
    num_clusters: number of ids; ids are in [0, num_clusters).
  """

  sample_rate: int = 16_000
  hop_length: int = 640
  num_clusters: int = 1024

  @property
  def frame_rate(self) -> float:
    """Tokens per second."""
    return self.sample_rate / self.hop_length
