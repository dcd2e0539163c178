"""Restricts TensorFlow to the CPU, where it only reads data and writes logs."""

import tensorflow as tf


def keep_off_gpu() -> None:
  """Hides the GPUs from TensorFlow, which would reserve the memory that JAX needs."""
  tf.config.set_visible_devices([], "GPU")
