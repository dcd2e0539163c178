"""Tasks of anybody's own folder, from the folder, manifest or token store in AUDIOLM_AUDIO_DIR."""

from collections.abc import Mapping

from audiolm_jax.data import registration
from audiolm_jax.lm.stages import StageSpec


def register(
  audio_dir: str,
  task: str = "waveform",
  bundle: str | None = None,
  stage_specs: Mapping[str, StageSpec] | None = None,
) -> str:
  """Registers the tasks of `audio_dir` and returns the name of one of them, for gin.

  Args:
    audio_dir: folder, manifest or token store.
    task: "waveform", "tokens", "semantic_stage", "coarse_stage" or "fine_stage".
    bundle: name or folder of the tokenizers; needed for tokens of audio.
    stage_specs: by name, what the stage tasks make; the paper's stages for these tokenizers if
      None.
  """
  registration.register_audio_tasks("audio_folder", audio_dir, bundle, stage_specs=stage_specs)
  return registration.task_name("audio_folder", task)


registration.register_from_environment("audio_folder", "AUDIOLM_AUDIO_DIR")
