"""Mixtures of the tasks of `tasks.speech` and `tasks.piano`, by default with equal rates."""

from audiolm_jax.data import registration
from tasks import piano, speech  # noqa: F401 (they register their tasks)

NAME = "speech_and_piano"


def register(
  task: str = "waveform",
  speech_rate: float = 1.0,
  piano_rate: float = 1.0,
) -> str:
  """Registers mixtures of the tasks of `tasks.speech` and `tasks.piano`, for gin.

  Args:
    task: kind of the mixed tasks, such as "waveform" or "coarse_stage".
    speech_rate: mixing rate (relative frequency of examples) of speech.
    piano_rate: mixing rate of piano music.

  Returns:
    The name of the mixture.

  Raises:
    DataError: no tasks of speech or piano music are registered, or the mixture has no task `task`.
  """
  registration.register_mixtures(NAME, {"speech": speech_rate, "piano": piano_rate})
  return registration.task_name(NAME, task)


if {"speech", "piano"} <= registration.registered_corpora():
  registration.register_mixtures(NAME, {"speech": 1.0, "piano": 1.0})
