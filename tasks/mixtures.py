"""Mixtures of speech and piano in equal parts, where both have been registered."""

from audiolm_jax.data import registration
from tasks import piano, speech  # noqa: F401 (they register what the environment names)

NAME = "speech_and_piano"


def register(
  task: str = "waveform",
  speech_rate: float = 1.0,
  piano_rate: float = 1.0,
) -> str:
  """Registers the mixtures of what `tasks.speech` and `tasks.piano` registered, for gin.

  Args:
    task: kind of the task, as in `speech.register`.
    speech_rate: weight of speech.
    piano_rate: weight of piano.
  Returns:
    The name of the mixture.
  """
  registration.register_mixtures(NAME, {"speech": speech_rate, "piano": piano_rate})
  return registration.task_name(NAME, task)


if {"speech", "piano"} <= registration.registered_corpora():
  registration.register_mixtures(NAME, {"speech": 1.0, "piano": 1.0})
