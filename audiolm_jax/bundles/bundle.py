"""What a trained system consists of."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np
from jaxtyping import Float, Int, Num

from audiolm_jax.bundles.tensors import hash_params
from audiolm_jax.codec.interface import Codec
from audiolm_jax.core import configs
from audiolm_jax.core.errors import AudioError, DataError
from audiolm_jax.core.streams import CODES, SEMANTIC, Stream, of_tokenizers
from audiolm_jax.detection.detector import Detector
from audiolm_jax.io import audio
from audiolm_jax.io.encoded import Encoded
from audiolm_jax.lm.stage import Stage
from audiolm_jax.semantic.chunked_tokenizer import ChunkedTokenizer
from audiolm_jax.semantic.resampled import ResampledTokenizer

if TYPE_CHECKING:
  from audiolm_jax.bundles.audio_stream import AudioStream
  from audiolm_jax.bundles.continuation import Continuation, Progress, Settings
  from audiolm_jax.sampling.cascade import Cascade


@dataclasses.dataclass(frozen=True)
class Bundle:
  """A codec, a semantic tokenizer and the stages that were trained on their tokens.

  Attributes:
    name: what `--bundle` calls it.
    codec: waveform to acoustic codes and back.
    semantic: waveform to semantic tokens, at the codec's sample rate.
    stages: by the name in their spec, each after those whose streams it reads; empty for a bundle
      that only encodes and decodes.
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
  semantic: ChunkedTokenizer | ResampledTokenizer
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

  def component(self, name: str) -> Any:
    """Returns the component that training calls `name`, such as "codec"; None if there is none."""
    tokenizers = {"codec": self.codec, "semantic": self.semantic, "detector": self.detector}
    return (tokenizers | {f"{key}_stage": stage for key, stage in self.stages.items()}).get(name)

  @functools.cached_property
  def streams(self) -> dict[str, Stream]:
    """What the tokenizers make, by key."""
    return of_tokenizers(*(configs.to_dict(part.spec) for part in (self.codec, self.semantic)))

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

  def encode(self, waveform: Num[np.ndarray, "*batch samples"], sample_rate: int) -> Encoded:
    """Encodes a waveform of any length, in memory that does not grow with it.

    Args:
      waveform: one clip or a batch; floats in [-1, 1], or integers over their whole range.
      sample_rate: Hz.
    Returns:
      `ceil(samples / hop_length)` semantic tokens and frames of codes, counted at the bundle's
      rate.
    Raises:
      AudioError: the waveform is empty, not finite or shorter than a semantic token, or the sample
        rate is out of range.
    """
    waveform = at_bundle_rate(self, waveform, sample_rate)
    hop_seconds = 1 / self.semantic.spec.frame_rate
    audio.check_length(waveform.shape[-1], self.sample_rate, hop_seconds, "the waveform")
    if waveform.ndim == 1:
      semantic, codes = self.semantic.tokenize_long(waveform), self.codec.encode_long(waveform)
    else:
      semantic, codes = self.semantic.tokenize(waveform), self.codec.encode(waveform)
    return Encoded({SEMANTIC: semantic, CODES: codes})

  def decode(
    self, codes: Int[np.ndarray, "*batch frames quantizers"]
  ) -> Float[np.ndarray, "*batch samples"]:
    """Decodes acoustic codes to `frames * hop_length` samples at the bundle's rate.

    Args:
      codes: of one clip or a batch; all levels, or the first ones only for a lower bit rate.
    Raises:
      DataError: the shape or the values do not fit this bundle's codec.
    """
    codes = np.asarray(codes)
    spec = self.codec.spec
    if codes.ndim not in (2, 3) or not codes.size or codes.dtype.kind not in "iu":
      raise DataError(
        f"codes are {codes.dtype} of shape {codes.shape}; give integers [frames, quantizers], "
        "with a batch axis before it for several clips"
      )
    if codes.shape[-1] > spec.num_quantizers:
      raise DataError(f"codes have {codes.shape[-1]} levels, the codec has {spec.num_quantizers}")
    if codes.min() < 0 or codes.max() >= spec.codebook_size:
      raise DataError(
        f"codes range over {codes.min()}..{codes.max()}; the codec knows "
        f"0..{spec.codebook_size - 1}"
      )
    batch = codes[None] if codes.ndim == 2 else codes
    waveform = np.clip(np.asarray(self.codec.decode(batch.astype(np.int32))), -1.0, 1.0)
    return waveform[0] if codes.ndim == 2 else waveform

  @overload
  def continue_audio(
    self,
    waveform: Num[np.ndarray, "*batch samples"] | None = None,
    sample_rate: int | None = None,
    *,
    num_samples: int = 1,
    progress: "Progress | None" = None,
    **settings: "Unpack[Settings]",
  ) -> "Continuation": ...
  @overload
  def continue_audio(
    self,
    waveform: Sequence[Num[np.ndarray, "samples"]],
    sample_rate: int,
    *,
    num_samples: int = 1,
    progress: "Progress | None" = None,
    **settings: "Unpack[Settings]",
  ) -> "list[Continuation]": ...
  def continue_audio(
    self,
    waveform: Any = None,
    sample_rate: int | None = None,
    *,
    num_samples: int = 1,
    progress: "Progress | None" = None,
    **settings: "Unpack[Settings]",
  ) -> "Continuation | list[Continuation]":
    """Continues a recording, samples without a prompt, or resynthesizes in another voice.

    Args:
      waveform: the prompt: one clip, or a batch; None in unconditional mode. Or a list of clips of
        any lengths, which are sampled side by side.
      sample_rate: Hz, of the prompt.
      num_samples: samples for each prompt; they share the pass over it.
      progress: called with a stage's name, the tokens sampled so far and their total.
      settings: see `Settings`.
    Returns:
      As many samples as the prompt has plus `duration * sample_rate`, rounded, at the bundle's
      rate. For a list of prompts a list of results, each with the timings of all.
    Raises:
      UserError: the prompt is too short or silent, or a setting is out of range.
    """
    from audiolm_jax.bundles import continuation

    return continuation.continue_audio(
      self, waveform, sample_rate, num_samples=num_samples, progress=progress, **settings
    )

  def stream(
    self,
    waveform: Num[np.ndarray, "samples"] | None = None,
    sample_rate: int | None = None,
    *,
    progress: "Progress | None" = None,
    **settings: "Unpack[Settings]",
  ) -> "AudioStream":
    """Yields the waveform that `continue_audio` returns in pieces, as they are sampled.

    The prompt is yielded at once. New audio starts when the semantic tokens of the first window and
    the coarse codes of the first fine chunk are sampled; after that, every 64 tokens of the last
    stage yield a piece. The pieces join without seams.

    Args:
      waveform: the prompt, one clip; None in unconditional mode.
      sample_rate: Hz, of the prompt.
      progress: called with a stage's name, the tokens sampled so far and their total; an exception
        that it raises ends the sampling.
      settings: see `Settings`.
    Returns:
      An iterator over pieces [samples]; it knows the total length and, at its end, the tokens.
    Raises:
      UserError: as `continue_audio`, before anything is yielded.
    """
    from audiolm_jax.bundles import continuation

    return continuation.stream(self, waveform, sample_rate, progress=progress, **settings)


def at_bundle_rate(
  bundle: Bundle, waveform: Num[np.ndarray, "*batch samples"], sample_rate: int
) -> Float[np.ndarray, "*batch samples"]:
  """Converts a waveform of any number type and rate to float32 at the bundle's rate."""
  waveform = audio.as_waveform(waveform)
  if waveform.ndim not in (1, 2):
    raise AudioError(
      f"the waveform has shape {waveform.shape}; give [samples], or [batch, samples]"
    )
  return audio.resample(waveform, sample_rate, bundle.sample_rate)


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
