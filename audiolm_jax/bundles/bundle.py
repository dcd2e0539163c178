"""A trained system: a codec, a semantic tokenizer, stages, a detector and a watermark."""

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


@no_type_check  # methods check their arguments; a check against a protocol reads all properties
@dataclasses.dataclass(frozen=True)
class Bundle:
  """A codec, a semantic tokenizer and the stages that were trained on their tokens.

  Attributes:
    name: name of the bundle.
    codec: converts waveforms to acoustic codes and back.
    semantic: converts waveforms at the codec's sample rate to semantic tokens.
    stages: stages by the name in their spec, in the order of sampling; empty for a bundle that only
      encodes and decodes.
    semantic_rate: mean number of semantic tokens per second of the training data, after repeats
      are collapsed; None if it was not measured.
    temperatures: default temperatures by stage, for stages whose default is not the paper's.
    detector: distinguishes the bundle's samples from recordings; None if no detector was trained.
    watermark: the watermark of the sampled codes; None if the bundle has no watermark.
    description: description of the bundle, one sentence.
    metadata: training data, licence and metrics; they do not affect encoding and sampling.
    model_card: the text of MODEL_CARD.md; "" if the file does not exist.
    path: the folder that the bundle was loaded from; None if it was not loaded from a folder.
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
    """Returns a component, or None if the bundle does not contain the component.

    Args:
      name: name of the component in training, such as "codec" or "coarse_stage".
    """
    tokenizers = {"codec": self.codec, "semantic": self.semantic, "units": self.semantic}
    tokenizers |= {"detector": self.detector}
    return (tokenizers | {f"{key}_stage": stage for key, stage in self.stages.items()}).get(name)

  def searching(self, width: int) -> "Bundle":
    """Returns a bundle whose codec encodes with a beam search of the given width.

    With a larger width, the average quantization error is smaller, and encoding takes longer. A
    corpus can contain codes that were encoded with different widths.

    Args:
      width: number of code sequences that are kept per frame; 1 for no beam search.

    Raises:
      UserError: the width is out of range, or the codec has no beam search.
    """
    width = arguments.whole(width, "search_width", _SEARCH_WIDTHS)
    if not isinstance(self.codec, ResidualCodec):
      if width == 1:
        return self
      raise UserError(f"the codec of {self.name} has no beam search; use search_width 1")
    return dataclasses.replace(self, codec=self.codec.searching(width))

  @functools.cached_property
  def streams(self) -> dict[str, Stream]:
    """The streams that the tokenizers produce, by key."""
    return of_tokenizers(*(configs.to_dict(part.spec) for part in (self.codec, self.semantic)))

  @functools.cached_property
  def token_hash(self) -> str:
    """A hash of 16 hexadecimal digits; bundles with equal hashes have interchangeable tokens."""
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
    """The cascade that contains only the text stage; samples semantic tokens for a text."""
    from audiolm_jax.bundles.speaking import text_stage
    from audiolm_jax.sampling.cascade import Cascade

    name = text_stage(self).name
    return Cascade({name: self.stages[name]})

  @functools.cached_property
  def speech_cascade(self) -> "Cascade":
    """The cascade that contains only the speech stage; translates semantic tokens."""
    from audiolm_jax.bundles.speaking import speech_stage
    from audiolm_jax.sampling.cascade import Cascade

    name = speech_stage(self).name
    return Cascade({name: self.stages[name]})

  @functools.cached_property
  def transcript_cascade(self) -> "Cascade":
    """The cascade that contains only the transcript stage; recognizes text in semantic tokens."""
    from audiolm_jax.bundles.transcription import transcript_stage
    from audiolm_jax.sampling.cascade import Cascade

    name = transcript_stage(self).name
    return Cascade({name: self.stages[name]})

  def watermark_detector(self, key: bytes | None = None) -> WatermarkDetector:
    """Returns the detector of the bundle's watermark.

    Args:
      key: the content of the key file that was used in sampling; None for the bundle's public key.

    Raises:
      BundleError: the bundle has no watermark.
      UserError: the key is not bytes, or is too short or too long.
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
    """Encodes a waveform of any length, in chunks.

    Args:
      waveform: one clip or a batch; floats in [-1, 1], or integers over their whole range.
      sample_rate: Hz.
      channel_axis: axis of the channels, which are averaged, such as -1 for an array
        [samples, channels] from soundfile; None for one channel.

    Returns:
      Semantic tokens [..., steps] and codes [..., frames, quantizers]. The last step and the last
      frame may extend past the end of the waveform.

    Raises:
      AudioError: the waveform is not valid audio, a clip is silent, the clips are shorter than a
        semantic token, or the sample rate is out of range.
      UserError: `channel_axis` is not an axis of the waveform.
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
      codes: codes of one clip or a batch, with all levels, or with the first levels for a lower bit
        rate.

    Returns:
      The waveform, in [-1, 1].

    Raises:
      DataError: the shape, type or values of the codes do not fit this bundle's codec.
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
    """Continues a recording, samples without a prompt, or resynthesizes a recording.

    Args:
      waveform: the prompt: one clip, a batch of clips, or a list of clips of any lengths. All clips
        are sampled together. None in unconditional mode.
      sample_rate: sample rate of the prompt in Hz.
      num_samples: number of samples for each prompt, at most 10,000. The prompt is encoded once for
        all samples.
      progress: called with the name of a stage and its numbers of sampled tokens and of all tokens.
      **settings: see `Settings`.

    Returns:
      The audio at the bundle's rate: in continuation mode, the prompt (see `PromptAudio`) and the
      new audio, else the new audio only. For a list of prompts, a list of results, each with the
      timings of the whole call.

    Raises:
      BundleError: the bundle lacks a stage that the mode needs.
      UserError: the prompt is missing, not valid, too short or silent, or a setting is not valid.
      TypeError: a setting is unknown.
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

    If the output contains the prompt, the prompt is yielded first. New audio starts when the
    earlier stages have sampled the tokens that the last stage reads first. Then each piece has up
    to 64 tokens of the last stage, or a window if the last stage is parallel. The concatenated
    pieces have no discontinuities.

    Args:
      waveform: the prompt, one clip; None in unconditional mode.
      sample_rate: sample rate of the prompt in Hz.
      progress: called with the name of a stage and its numbers of sampled tokens and of all tokens.
        An exception from this function ends the sampling.
      **settings: see `Settings`.

    Returns:
      An iterator over pieces [samples]. Its attribute `samples` is the total length; its attribute
      `tokens` is set when the iterator ends.

    Raises:
      UserError: see `continue_audio`; raised before the first piece.
      TypeError: a setting is unknown.
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
    """Speaks a text, in a random voice or in the voice of a recording.

    Numbers, dates and amounts of money are spoken as words; this requires num2words. The text is
    split into sentences, and all sentences have the same voice.

    Args:
      text: the text, of at most 100,000 characters.
      num_samples: number of samples, at most 10,000.
      progress: called with the name of a stage and its numbers of sampled tokens and of all tokens.
      **settings: see `speaking.SpeechSettings`.

    Returns:
      The audio and its tokens; the tokens of the voice come first. For several samples, a list of
      results, whose lengths can differ.

    Raises:
      BundleError: the bundle has no text stage, or no acoustic stage that reads semantic tokens.
      UserError: the text is empty, too long or has unknown characters, num2words is needed and not
        installed, the voice is too short or silent, or a setting is not valid.
      TypeError: a setting is unknown.
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
      progress: see `speak`. An exception from this function ends the sampling.
      **settings: see `speaking.SpeechSettings`.

    Returns:
      An iterator over pieces [samples]. Its attribute `samples` is the total length; its attribute
      `tokens` is set when the iterator ends.

    Raises:
      UserError: see `speak`; raised before the first piece.
      TypeError: a setting is unknown.
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
    """Speaks the content of a recording, for example in another language, with a speech stage.

    A recording that is too long for the stage is cut at quiet moments into pieces. The stage reads
    each piece separately, and all pieces have the same voice.

    Args:
      waveform: the recording (source), one clip; floats in [-1, 1], or integers over their whole
        range.
      sample_rate: sample rate of the source and of the voice in Hz.
      num_samples: number of samples, at most 10,000.
      progress: called with the name of a stage and its numbers of sampled tokens and of all tokens.
      **settings: see `speaking.VoiceSettings`.

    Returns:
      The audio and its tokens; see `speak`.

    Raises:
      BundleError: the bundle has no speech stage, or no acoustic stage that reads semantic tokens.
      UserError: the source or the voice is too short or silent, or a setting is not valid.
      TypeError: a setting is unknown.
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
      waveform: the source; see `speak_from`.
      sample_rate: sample rate of the source and of the voice in Hz.
      progress: see `speak_from`. An exception from this function ends the sampling.
      **settings: see `speaking.VoiceSettings`.

    Returns:
      An iterator over pieces [samples]. Its attribute `samples` is the total length; its attribute
      `tokens` is set when the iterator ends.

    Raises:
      UserError: see `speak_from`; raised before the first piece.
      TypeError: a setting is unknown.
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

    A recording that is too long for the transcript stage is cut at quiet moments into pieces.

    Args:
      waveform: one clip; floats in [-1, 1], or integers over their whole range.
      sample_rate: Hz.
      temperature: temperature of sampling; 0 selects the most likely character.
      seed: random seed; has no effect at the temperature 0.
      channel_axis: axis of the channels, which are averaged; None for one channel.

    Returns:
      The text in lower case, with numbers as words.

    Raises:
      BundleError: the bundle has no transcript stage.
      UserError: the recording is too short or silent, or a setting is not valid.
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
  """Returns the stages that contribute to audio: all except stages that recognize speech."""
  return {name: stage for name, stage in stages.items() if stage.spec.writes != TRANSCRIPT}


def token_hash(codec: Codec, semantic: ChunkedTokenizer | ResampledTokenizer) -> str:
  """Returns a hash of the weights and specs that determine tokens, 16 hexadecimal digits.

  The hash excludes the codec's decoder, so tokens and stages remain valid when the decoder is
  trained further. It also excludes all settings that are not in the specs, so that a new setting
  does not invalidate old tokens.
  """
  parts = [
    (hash_params(tokenizer.token_params), configs.to_dict(tokenizer.spec))
    for tokenizer in (codec, semantic)
  ]
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
