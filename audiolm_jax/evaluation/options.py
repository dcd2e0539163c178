"""The settings of an evaluation, which are also the flags of `eval`."""

import dataclasses
import enum
from typing import Any


class Domain(enum.StrEnum):
  """The kind of audio; some metrics are defined for speech only."""

  SPEECH = "speech"
  MUSIC = "music"


def _setting(text: str, default: object = dataclasses.MISSING, least: float | None = None) -> Any:
  """Returns a dataclass field with a description, a default value and a minimum."""
  return dataclasses.field(default=default, metadata={"help": text, "least": least})


@dataclasses.dataclass(frozen=True)
class Options:
  """The settings of all suites, each with its description."""

  bundle: str = _setting("Name or folder of the bundle to measure.")
  data: str = _setting("Folder or manifest; its split valid is measured.")
  output_dir: str = _setting("Folder for results, sounds and pictures.")
  train_data: str | None = _setting("Source of the split train; default: data.", None)
  probe_data: str | None = _setting("Source of the split probe; default: data.", None)
  token_store: str | None = _setting("Tokens that the stages were trained on.", None)
  lyra_dir: str | None = _setting("Folder of Lyra's TFLite models, for the suite codec.", None)
  items: str | None = _setting("ABX items in the Libri-Light format, for content.", None)
  items_audio_dir: str | None = _setting("Folder of the items' files; default: data.", None)
  pairs: str | None = _setting("Pairs of sounds, for likelihood: folder or .jsonl manifest.", None)
  stages: tuple[str, ...] = _setting("Stages of the suite likelihood; default: all.", ())
  asr_model: str | None = _setting(
    "Whisper model: folder (CTranslate2), size such as base.en, or hub name.", None
  )
  second_asr_model: str | None = _setting(
    "Another Whisper model, whose words of continuations are compared with the first one's.", None
  )
  asr_language: str = _setting("Language of the speech.", "en")
  other_bundle: str | None = _setting(
    "Bundle whose samples are detected, and whose piano is compared.", None
  )
  domain: Domain = _setting("Kind of audio.", Domain.SPEECH)
  max_clips: int = _setting("Maximum number of pieces to reconstruct.", 60, 1)
  max_continuations: int = _setting("Maximum number of prompts to continue.", 40, 1)
  max_speaker_clips: int = _setting("Maximum number of clips for the speaker model.", 600, 2)
  samples_per_prompt: int = _setting("Continuations of one prompt that are compared.", 4, 2)
  piece_seconds: float = _setting("Longer clips are cut into pieces of this length.", 14.0, 1.0)
  prompt_seconds: float = _setting("Length of a prompt.", 3.0, 0.5)
  duration: float = _setting("Length of a continuation in seconds.", 7.0, 0.5)
  encode_hours: float = _setting("Length of the file that the suite cost encodes.", 1.0, 0.001)
  speaker_steps: int = _setting("Training steps of the speaker classifier.", 2_000, 1)
  seed: int = _setting("Seed of the choice of clips and of sampling.", 0)

  def source_of(self, split: str) -> str:
    """Returns the folder or manifest that a split is read from."""
    return {"train": self.train_data, "probe": self.probe_data}.get(split) or self.data
