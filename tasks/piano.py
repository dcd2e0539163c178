"""Tasks of piano music, from the folder, manifest or token store that AUDIOLM_PIANO_DIR names."""

from audiolm_jax.data import registration

register = registration.register_function("piano")

registration.register_from_environment("piano", "AUDIOLM_PIANO_DIR")
