"""Mixtures of speech and piano in equal parts, if both are registered."""

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
    task: kind of task, as in `speech.register`.
    speech_rate: weight of speech.
    piano_rate: weight of piano.

  Returns:
    The name of the mixture.
  """
  registration.register_mixtures(NAME, {"speech": speech_rate, "piano": piano_rate})
  return registration.task_name(NAME, task)


if {"speech", "piano"} <= registration.registered_corpora():
  registration.register_mixtures(NAME, {"speech": 1.0, "piano": 1.0})
