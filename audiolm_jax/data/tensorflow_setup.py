"""How TensorFlow is used here: it reads data and writes logs, on the CPU."""

import tensorflow as tf


def keep_off_gpu() -> None:
  """Hides the GPUs from TensorFlow, which would take the memory that JAX needs."""
  tf.config.set_visible_devices([], "GPU")
