"""Hides the GPUs from TensorFlow, which this package uses only for data and logs."""

import tensorflow as tf


def keep_off_gpu() -> None:
  """Hides the GPUs from TensorFlow, because TensorFlow would reserve the memory that JAX needs."""
  tf.config.set_visible_devices([], "GPU")
