"""Tasks of audio, from the folder, manifest or token store that AUDIOLM_AUDIO_DIR names."""

from audiolm_jax.data import registration

register = registration.register_function("audio_folder")

registration.register_from_environment("audio_folder", "AUDIOLM_AUDIO_DIR")
