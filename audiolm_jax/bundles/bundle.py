"""A trained system: a codec, a semantic tokenizer, stages and a detector."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack, no_type_check, overload

import numpy as np
from jaxtyping import Float, Integer, Num

from audiolm_jax.bundles.tensors import hash_params
from audiolm_jax.codec.interface import Codec
from audiolm_jax.codec.residual_codec import ResidualCodec
from audiolm_jax.core import arguments, configs, ranges
from audiolm_jax.core.configs import Json, JsonDict
from audiolm_jax.core.errors import BundleError, DataError, UserError
from audiolm_jax.core.streams import CODES, SEMANTIC, TRANSCRIPT, Stream, of_tokenizers
from audiolm_jax.detection.detector import Detector
from audiolm_jax.detection.watermark import Watermark, private_key
from audiolm_jax.detection.watermark_detector import WatermarkDetector
from audiolm_jax.io import audio, waveforms
from audiolm_jax.io.encoded import Encoded
from audiolm_jax.lm.stage import Stage
from audiolm_jax.semantic.chunked_tokenizer import ChunkedTokenizer
from audiolm_jax.semantic.resampled import ResampledTokenizer

if TYPE_CHECKING:
  from audiolm_jax.bundles.audio_stream import AudioStream
  from audiolm_jax.bundles.continuation import Continuation, Progress
  from audiolm_jax.bundles.settings import Settings
  from audiolm_jax.bundles.speaking import SpeechSettings, VoiceSettings
  from audiolm_jax.sampling.cascade import Cascade


_SEARCH_WIDTHS = ranges.Range(1, 256)


@no_type_check  # methods check what users give; the check of a protocol reads all properties
@dataclasses.dataclass(frozen=True)
class Bundle:
  """A codec, a semantic tokenizer and the stages that were trained on their tokens.

  Attributes:
    name: the name that `--bundle` takes.
    codec: converts waveforms to acoustic codes and back.
    semantic: converts waveforms to semantic tokens, at the codec's sample rate.
    stages: by the name in their spec, each after the stages whose streams it reads; empty for a
      bundle that only encodes and decodes.
    semantic_rate: collapsed semantic tokens per second of the training data; None without stages.
    temperatures: of the stages whose best temperature is not the paper's.
    detector: distinguishes the bundle's samples from recordings; None if none was trained.
    watermark: how sampled codes are marked; None if no communities were made.
    description: one sentence.
    metadata: training data, licence and metrics, as information for people only.
    model_card: the text of MODEL_CARD.md.
    path: the folder that the bundle was loaded from.
  """

  name: str
  codec: Codec
  semantic: ChunkedTokenizer | ResampledTokenizer
  stages: Mapping[str, Stage] = dataclasses.field(default_factory=dict[str, Stage])
  semantic_rate: float | None = None
  temperatures: Mapping[str, float] = dataclasses.field(default_factory=dict[str, float])
  detector: Detector | None = None
  watermark: Watermark | None = None
  description: str = ""
  metadata: Json = dataclasses.field(default_factory=JsonDict)
  model_card: str = ""
  path: Path | None = None

  @property
  def sample_rate(self) -> int:
    """The sample rate in Hz of the codec and of all returned waveforms."""
    return self.codec.spec.sample_rate

  def component(
    self, name: str
  ) -> Codec | ChunkedTokenizer | ResampledTokenizer | Detector | Stage | None:
    """Returns the component that training calls `name`, such as "codec"; None if there is none."""
    tokenizers = {"codec": self.codec, "semantic": self.semantic, "units": self.semantic}
    tokenizers |= {"detector": self.detector}
    return (tokenizers | {f"{key}_stage": stage for key, stage in self.stages.items()}).get(name)

  def searching(self, width: int) -> "Bundle":
    """Returns the bundle with a beam search in the encoding of its codec.

    The codes of a frame then describe it more accurately, and encoding takes longer. Tokens of
    different widths can be mixed.

    Args:
      width: sequences of codes that are kept per frame; 1 for none but the nearest.

    Raises:
      UserError: the width is out of range, or the codec has no beam search.
    """
    width = arguments.whole(width, "search_width", _SEARCH_WIDTHS)
    if width == 1:
      return self
    if not isinstance(self.codec, ResidualCodec):
      raise UserError(f"the codec of {self.name} has no beam search; use search_width 1")
    return dataclasses.replace(self, codec=self.codec.searching(width))

  @functools.cached_property
  def streams(self) -> dict[str, Stream]:
    """The streams that the tokenizers produce, by key."""
    return of_tokenizers(*(configs.to_dict(part.spec) for part in (self.codec, self.semantic)))

  @functools.cached_property
  def token_hash(self) -> str:
    """16 hexadecimal digits; bundles with the same hash have interchangeable tokens."""
    return token_hash(self.codec, self.semantic)

  @functools.cached_property
  def cascade(self) -> "Cascade":
    """The stages that continue audio, combined for sampling."""
    from audiolm_jax.sampling.cascade import Cascade, retokenizer

    return Cascade(
      {n: s for n, s in self.stages.items() if s.spec.continues_audio},
      semantic_rate=self.semantic_rate,
      retokenize=retokenizer(self.codec, self.semantic),
    )

  @functools.cached_property
  def text_cascade(self) -> "Cascade":
    """A cascade of the text stage alone, which samples the semantic tokens of a text."""
    from audiolm_jax.bundles.speaking import text_stage
    from audiolm_jax.sampling.cascade import Cascade

    name = text_stage(self).name
    return Cascade({name: self.stages[name]})

  @functools.cached_property
  def speech_cascade(self) -> "Cascade":
    """A cascade of the speech stage alone, which translates semantic tokens of a recording."""
    from audiolm_jax.bundles.speaking import speech_stage
    from audiolm_jax.sampling.cascade import Cascade

    name = speech_stage(self).name
    return Cascade({name: self.stages[name]})

  @functools.cached_property
  def transcript_cascade(self) -> "Cascade":
    """A cascade of the transcript stage alone, which recognizes the text of semantic tokens."""
    from audiolm_jax.bundles.transcription import transcript_stage
    from audiolm_jax.sampling.cascade import Cascade

    name = transcript_stage(self).name
    return Cascade({name: self.stages[name]})

  def watermark_detector(self, key: bytes | None = None) -> WatermarkDetector:
    """Returns the detector of the marks that sampling leaves in the codes.

    Args:
      key: the content of the key file that was used in sampling; None for the bundle's public key.

    Raises:
      BundleError: the bundle has no watermark.
      UserError: the key is too short or too long.
    """
    if self.watermark is None:
      raise BundleError(f"the bundle {self.name} has no watermark; make one with make_watermark")
    words = self.watermark.key if key is None else private_key(key)
    return WatermarkDetector(self.watermark, self.codec, words)

  def encode(
    self,
    waveform: Num[np.ndarray, "*batch samples"],
    sample_rate: int,
    *,
    channel_axis: int | None = None,
  ) -> Encoded:
    """Encodes a waveform of any length in bounded memory.

    Args:
      waveform: one clip or a batch; floats in [-1, 1], or integers over their whole range.
      sample_rate: Hz.
      channel_axis: axis of the channels, which are averaged, such as -1 for the [samples, channels]
        that soundfile returns; None for one channel.

    Returns:
      `ceil(samples / hop_length)` semantic tokens and frames of codes, where samples are at the
      bundle's rate.

    Raises:
      AudioError: the waveform is empty, not finite, silent or shorter than a semantic token, or the
        sample rate is out of range.
    """
    sample_rate = waveforms.check_rate(sample_rate)
    waveform = waveforms.check(waveform, sample_rate, channel_axis=channel_axis)
    waveform = audio.resample(waveform, sample_rate, self.sample_rate)
    hop_seconds = 1 / self.semantic.spec.frame_rate
    audio.check_length(waveform.shape[-1], self.sample_rate, hop_seconds, "the waveform")
    for i, row in enumerate(np.atleast_2d(waveform)):
      audio.check_not_silent(row, "the waveform" if waveform.ndim == 1 else f"clip [{i}]")
    if waveform.ndim == 1:
      semantic, codes = self.semantic.tokenize_long(waveform), self.codec.encode_long(waveform)
    else:
      semantic, codes = self.semantic.tokenize(waveform), self.codec.encode(waveform)
    return Encoded({SEMANTIC: semantic, CODES: codes})

  def decode(
    self, codes: Integer[np.ndarray, "*batch frames quantizers"]
  ) -> Float[np.ndarray, "*batch samples"]:
    """Decodes acoustic codes to `frames * hop_length` samples at the bundle's rate.

    Args:
      codes: of one clip or a batch, with all levels, or with the first levels for a lower bit rate.

    Returns:
      The waveform, in [-1, 1].

    Raises:
      DataError: the shape or the values do not fit this bundle's codec.
    """
    wanted = "integers [frames, quantizers], with a batch axis before it for several clips"
    try:
      codes = arguments.array(codes, "codes", wanted)
    except UserError as error:
      raise DataError(str(error)) from error
    spec = self.codec.spec
    if codes.ndim not in (2, 3) or not codes.size or codes.dtype.kind not in "iu":
      raise DataError(f"codes are {codes.dtype} of shape {codes.shape}; give {wanted}")
    if codes.shape[-1] > spec.num_quantizers:
      raise DataError(f"codes have {codes.shape[-1]} levels, the codec has {spec.num_quantizers}")
    if codes.min() < 0 or codes.max() >= spec.codebook_size:
      raise DataError(
        f"codes are in {codes.min()}..{codes.max()}; the codec's range is "
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
    waveform: Sequence[Num[np.ndarray, "_samples"]],
    sample_rate: int,
    *,
    num_samples: int = 1,
    progress: "Progress | None" = None,
    **settings: "Unpack[Settings]",
  ) -> "list[Continuation]": ...
  def continue_audio(
    self,
    waveform: Num[np.ndarray, "*batch samples"] | Sequence[np.ndarray] | None = None,
    sample_rate: int | None = None,
    *,
    num_samples: int = 1,
    progress: "Progress | None" = None,
    **settings: "Unpack[Settings]",
  ) -> "Continuation | list[Continuation]":
    """Continues a recording, samples without a prompt, or resynthesizes in another voice.

    Args:
      waveform: the prompt: one clip, a batch of clips, or a list of clips of any lengths, which are
        sampled together; None in unconditional mode.
      sample_rate: of the prompt, in Hz.
      num_samples: samples for each prompt, at most 10,000. The prompt is processed once for all of
        them.
      progress: called with a stage's name, the tokens sampled so far and their total.
      **settings: see `Settings`.

    Returns:
      The prompt and `round(duration * sample_rate)` new samples, at the bundle's rate. For a list
      of prompts, a list of results, each with the timings of the whole call.

    Raises:
      UserError: the prompt is too short or silent, or a setting is out of range.
    """
    from audiolm_jax.bundles import continuation

    return continuation.continue_audio(
      self, waveform, sample_rate, num_samples=num_samples, progress=progress, **settings
    )

  def stream(
    self,
    waveform: Num[np.ndarray, "*channels samples"] | None = None,
    sample_rate: int | None = None,
    *,
    progress: "Progress | None" = None,
    **settings: "Unpack[Settings]",
  ) -> "AudioStream":
    """Yields the waveform that `continue_audio` returns, in pieces, while it is sampled.

    The prompt is yielded at once. New audio starts when the semantic tokens of the first window and
    the coarse codes of the first fine chunk are sampled; after that, every 64 tokens of the last
    stage yield a piece. The concatenated pieces have no discontinuities.

    Args:
      waveform: the prompt, one clip; None in unconditional mode.
      sample_rate: of the prompt, in Hz.
      progress: called with a stage's name, the tokens sampled so far and their total. An exception
        that it raises ends the sampling.
      **settings: see `Settings`.

    Returns:
      An iterator over pieces [samples]. It has the total length from the start and the tokens at
      its end.

    Raises:
      UserError: as in `continue_audio`, before the first piece.
    """
    from audiolm_jax.bundles import continuation

    return continuation.stream(self, waveform, sample_rate, progress=progress, **settings)

  @overload
  def speak(
    self,
    text: str,
    *,
    num_samples: Literal[1] = 1,
    progress: "Progress | None" = None,
    **settings: "Unpack[SpeechSettings]",
  ) -> "Continuation": ...
  @overload
  def speak(
    self,
    text: str,
    *,
    num_samples: int,
    progress: "Progress | None" = None,
    **settings: "Unpack[SpeechSettings]",
  ) -> "Continuation | list[Continuation]": ...
  def speak(
    self,
    text: str,
    *,
    num_samples: int = 1,
    progress: "Progress | None" = None,
    **settings: "Unpack[SpeechSettings]",
  ) -> "Continuation | list[Continuation]":
    """Speaks a text, in a drawn voice or in that of a recording.

    Numbers, dates and amounts of money are spoken as words, for which num2words must be installed.
    A long text is split into sentences, and the voice remains the same.

    Args:
      text: the text, of at most 100,000 characters.
      num_samples: number of samples, at most 10,000.
      progress: called with a stage's name, the tokens sampled so far and their total.
      **settings: see `speaking.SpeechSettings`.

    Returns:
      The audio and its tokens, those of the voice first; a list of them for several samples, which
      can differ in length.

    Raises:
      BundleError: the bundle has no text stage.
      UserError: the text is empty or has unknown characters, the voice is too short or silent, or a
        setting is out of range.
    """
    from audiolm_jax.bundles import speaking

    return speaking.speak(self, text, num_samples=num_samples, progress=progress, **settings)

  def stream_speech(
    self,
    text: str,
    *,
    progress: "Progress | None" = None,
    **settings: "Unpack[SpeechSettings]",
  ) -> "AudioStream":
    """Yields the waveform that `speak` returns, in pieces, while its codes are sampled.

    The semantic tokens of the whole text are sampled before the first piece.

    Args:
      text: the text.
      progress: as of `speak`. An exception that it raises ends the sampling.
      **settings: see `speaking.SpeechSettings`.

    Returns:
      An iterator over pieces [samples]. It has the total length from the start and the tokens at
      its end.

    Raises:
      UserError: as in `speak`, before the first piece.
    """
    from audiolm_jax.bundles import speaking

    return speaking.stream_speech(self, text, progress=progress, **settings)

  @overload
  def speak_from(
    self,
    waveform: Num[np.ndarray, "*channels samples"],
    sample_rate: int,
    *,
    num_samples: Literal[1] = 1,
    progress: "Progress | None" = None,
    **settings: "Unpack[VoiceSettings]",
  ) -> "Continuation": ...
  @overload
  def speak_from(
    self,
    waveform: Num[np.ndarray, "*channels samples"],
    sample_rate: int,
    *,
    num_samples: int,
    progress: "Progress | None" = None,
    **settings: "Unpack[VoiceSettings]",
  ) -> "Continuation | list[Continuation]": ...
  def speak_from(
    self,
    waveform: Num[np.ndarray, "*channels samples"],
    sample_rate: int,
    *,
    num_samples: int = 1,
    progress: "Progress | None" = None,
    **settings: "Unpack[VoiceSettings]",
  ) -> "Continuation | list[Continuation]":
    """Speaks the content of a recording as the pairs of training do, such as in translation.

    A recording longer than the longest source of the stage is cut at quiet moments into pieces,
    each of which is spoken alone; the voice remains the same.

    Args:
      waveform: the source, one clip; floats in [-1, 1], or integers over their whole range.
      sample_rate: of the source and of the voice, in Hz.
      num_samples: number of samples, at most 10,000.
      progress: called with a stage's name, the tokens sampled so far and their total.
      **settings: see `speaking.VoiceSettings`.

    Returns:
      The audio and its tokens, as of `speak`.

    Raises:
      BundleError: the bundle has no speech stage.
      UserError: the source or the voice is too short or silent, or a setting is out of range.
    """
    from audiolm_jax.bundles import speaking

    return speaking.speak_from(
      self, waveform, sample_rate, num_samples=num_samples, progress=progress, **settings
    )

  def stream_speech_from(
    self,
    waveform: Num[np.ndarray, "*channels samples"],
    sample_rate: int,
    *,
    progress: "Progress | None" = None,
    **settings: "Unpack[VoiceSettings]",
  ) -> "AudioStream":
    """Yields the waveform that `speak_from` returns, in pieces, while its codes are sampled.

    The semantic tokens of the whole result are sampled before the first piece.

    Args:
      waveform: the source, as of `speak_from`.
      sample_rate: of the source and of the voice, in Hz.
      progress: as of `speak`. An exception that it raises ends the sampling.
      **settings: see `speaking.VoiceSettings`.

    Returns:
      An iterator over pieces [samples]. It has the total length from the start and the tokens at
      its end.

    Raises:
      UserError: as in `speak_from`, before the first piece.
    """
    from audiolm_jax.bundles import speaking

    return speaking.stream_speech_from(self, waveform, sample_rate, progress=progress, **settings)

  def transcribe(
    self,
    waveform: Num[np.ndarray, "*channels samples"],
    sample_rate: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    channel_axis: int | None = None,
  ) -> str:
    """Recognizes the words of a recording.

    A recording longer than the clips of training is cut at quiet moments.

    Args:
      waveform: one clip; floats in [-1, 1], or integers over their whole range.
      sample_rate: Hz.
      temperature: of sampling; 0 selects the likeliest character.
      seed: random seed; has no effect at the temperature 0.
      channel_axis: axis of the channels, which are averaged; None for one channel.

    Returns:
      The text in lower case, with numbers as words, as the stage has learned it.

    Raises:
      BundleError: the bundle has no transcript stage.
      UserError: the recording is too short or silent, or a setting is out of range.
    """
    from audiolm_jax.bundles import transcription

    return transcription.transcribe(
      self,
      waveform,
      sample_rate,
      temperature=temperature,
      seed=seed,
      channel_axis=channel_axis,
    )


def audio_stages(stages: Mapping[str, Stage]) -> dict[str, Stage]:
  """Returns the stages that make audio: all but one that recognizes speech."""
  return {name: stage for name, stage in stages.items() if stage.spec.writes != TRANSCRIPT}


def token_hash(codec: Codec, semantic: ChunkedTokenizer | ResampledTokenizer) -> str:
  """Returns a hash of everything that determines tokens: weights and specs.

  The hash excludes the codec's decoder, so tokens and stages remain valid when the decoder is
  trained further. It also excludes all settings outside the specs, so that a new setting does not
  invalidate old tokens.
  """
  parts = [
    (hash_params(tokenizer.token_params), configs.to_dict(tokenizer.spec))
    for tokenizer in (codec, semantic)
  ]
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
