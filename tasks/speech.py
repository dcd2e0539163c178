"""Tasks of speech, from the folder, manifest or token store that AUDIOLM_SPEECH_DIR names."""

from audiolm_jax.data import registration

register = registration.register_function("speech")

registration.register_from_environment("speech", "AUDIOLM_SPEECH_DIR")
