"""What is measured, on what, and how much of it."""

import dataclasses
import enum


class Domain(enum.StrEnum):
  """What the audio is; some metrics are defined for speech only."""

  SPEECH = "speech"
  MUSIC = "music"


@dataclasses.dataclass(frozen=True)
class Options:
  """What the suites have in common; the flags of `eval` have the same names.

  Attributes:
    bundle: name or folder of what is measured.
    data: folder or manifest; its split `valid` is measured on.
    train_data, probe_data: where the splits `train` and `probe` are; None: in `data`.
    token_store: folder of the tokens that the stages were trained on, or None.
    lyra_dir: folder of Lyra's models, which the codec is set beside, or None.
    items, items_audio_dir: ABX items in the Libri-Light format, and the folder of their files.
    pairs: of sounds, for likelihoods: a folder or a manifest.
    stages: whose likelihoods; none for all.
    asr_model: Whisper model that counts word errors: folder, size or hub name; None for none, and
      for PocketSphinx in the suite resynthesis.
    asr_language: language that it expects.
    other_bundle: what a detector is shown, beside its own bundle; whose continuations of piano are
      set beside the bundle's.
    output_dir: folder for sounds and pictures.
    max_clips, max_continuations, max_speaker_clips: most pieces that are reconstructed, prompts
      that are continued, clips that a speaker model learns from.
    samples_per_prompt: continuations of each of the first prompts that are compared.
    piece_seconds: longer clips are cut.
    prompt_seconds, duration: lengths of a prompt and of what is made of it.
    encode_hours: length of the file that the suite cost encodes.
    speaker_steps: training steps of the speaker classifier.
    seed: of the choices and of sampling.
  """

  bundle: str
  data: str
  output_dir: str
  train_data: str | None = None
  probe_data: str | None = None
  token_store: str | None = None
  lyra_dir: str | None = None
  items: str | None = None
  items_audio_dir: str | None = None
  pairs: str | None = None
  stages: tuple[str, ...] = ()
  asr_model: str | None = None
  asr_language: str = "en"
  other_bundle: str | None = None
  domain: Domain = Domain.SPEECH
  max_clips: int = 60
  max_continuations: int = 40
  max_speaker_clips: int = 600
  samples_per_prompt: int = 4
  piece_seconds: float = 14.0
  prompt_seconds: float = 3.0
  duration: float = 7.0
  encode_hours: float = 1.0
  speaker_steps: int = 2_000
  seed: int = 0
