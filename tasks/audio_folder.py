"""Tasks of anybody's own folder, from the folder, manifest or token store in AUDIOLM_AUDIO_DIR."""

from audiolm_jax.data import registration

register = registration.register_function("audio_folder")

registration.register_from_environment("audio_folder", "AUDIOLM_AUDIO_DIR")
