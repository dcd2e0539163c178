"""Tasks of audio, from the source that AUDIOLM_AUDIO_DIR or gin names, see `tasks`."""

from audiolm_jax.data import registration

register = registration.register_function("audio_folder")

registration.register_from_environment("audio_folder", "AUDIOLM_AUDIO_DIR")
