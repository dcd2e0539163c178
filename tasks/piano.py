"""Tasks of piano music, from the source that AUDIOLM_PIANO_DIR or gin names, see `tasks`."""

from audiolm_jax.data import registration

register = registration.register_function("piano")

registration.register_from_environment("piano", "AUDIOLM_PIANO_DIR")
