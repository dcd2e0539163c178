"""Tasks of piano, from the folder, manifest or token store in AUDIOLM_PIANO_DIR."""

from audiolm_jax.data import registration

register = registration.register_function("piano")

registration.register_from_environment("piano", "AUDIOLM_PIANO_DIR")
