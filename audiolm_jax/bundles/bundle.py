"""What a trained system consists of."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiolm_jax import configs
from audiolm_jax.bundles.tensors import hash_params
from audiolm_jax.codec.interface import Codec
from audiolm_jax.detection.detector import Detector
from audiolm_jax.lm.stages import Stage
from audiolm_jax.semantic.resampled import ResampledTokenizer
from audiolm_jax.semantic.windowed_tokenizer import WindowedTokenizer

if TYPE_CHECKING:
  from audiolm_jax.sampling.cascade import Cascade


@dataclasses.dataclass(frozen=True)
class Bundle:
  """A codec, a semantic tokenizer and the stages that were trained on their tokens.

  Attributes:
    name: what `--bundle` calls it.
    codec: waveform to acoustic codes and back.
    semantic: waveform to semantic tokens, at the codec's sample rate.
    stages: by the name in their spec; empty for a bundle that only encodes and decodes.
    semantic_rate: collapsed semantic tokens per second of the training data; None without stages.
    temperatures: by stage, where others than the paper's suit it better.
    detector: tells its samples from recordings; None where none was trained.
    description: one sentence.
    metadata: training data, licence, metrics; for people, nothing reads it.
    model_card: the text of MODEL_CARD.md.
    path: the folder it was loaded from.
  """

  name: str
  codec: Codec
  semantic: WindowedTokenizer | ResampledTokenizer
  stages: Mapping[str, Stage] = dataclasses.field(default_factory=dict)
  semantic_rate: float | None = None
  temperatures: Mapping[str, float] = dataclasses.field(default_factory=dict)
  detector: Detector | None = None
  description: str = ""
  metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  model_card: str = ""
  path: Path | None = None

  @property
  def sample_rate(self) -> int:
    """Hz, of everything that goes in and comes out."""
    return self.codec.spec.sample_rate

  @functools.cached_property
  def token_hash(self) -> str:
    """16 hexadecimal digits: tokens of bundles with the same hash mean the same."""
    return token_hash(self.codec, self.semantic)

  @functools.cached_property
  def cascade(self) -> "Cascade":
    """The stages made ready to sample together."""
    from audiolm_jax.sampling.cascade import Cascade, retokenizer

    return Cascade(
      self.stages,
      semantic_rate=self.semantic_rate,
      retokenize=retokenizer(self.codec, self.semantic),
    )


def token_hash(codec: Any, semantic: Any) -> str:
  """A hash of what decides the tokens a waveform gets: weights, and the specs.

  The codec's decoder has no part in that: tokens and stages stay valid when it is trained on.
  Settings beyond the specs are left out, so that a new one does not turn old tokens invalid.
  """
  parts = [
    (hash_params(tokenizer.token_params), configs.to_dict(tokenizer.spec))
    for tokenizer in (codec, semantic)
  ]
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
