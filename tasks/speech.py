"""Tasks of speech, from the source that AUDIOLM_SPEECH_DIR or gin names, see `tasks`."""

from audiolm_jax.data import registration

register = registration.register_function("speech")

registration.register_from_environment("speech", "AUDIOLM_SPEECH_DIR")
