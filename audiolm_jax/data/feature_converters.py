"""Converts the features of a SeqIO task to the features of a model."""

from collections.abc import Mapping
from typing import Any

import seqio
import tensorflow as tf

from audiolm_jax.lm.stage import StageSpec

FeatureSpec = seqio.FeatureConverter.FeatureSpec
# Lengths of features in the format of SeqIO: an integer for one axis, a tuple for several axes.
Lengths = Mapping[str, int | tuple[int, ...]]


class StageFeatureConverter(seqio.FeatureConverter):
  """Keeps the features that the model of a stage reads, and removes all other features."""

  TASK_FEATURES: Mapping[str, FeatureSpec] = {}
  MODEL_FEATURES: Mapping[str, FeatureSpec] = {}
  PACKING_FEATURE_DTYPES: Mapping[str, tf.DType] = {}

  def __init__(self, spec: StageSpec):
    self.TASK_FEATURES = self.MODEL_FEATURES = {
      name: FeatureSpec(dtype=tf.as_dtype(feature.dtype), rank=len(feature.shape))
      for name, feature in spec.features().items()
    }
    super().__init__(pack=False)

  @classmethod
  def lengths(cls, spec: StageSpec) -> dict[str, Any]:  # SeqIO's annotation allows int only
    """Returns the `task_feature_lengths` of the stage's examples."""
    shapes = {name: feature.shape for name, feature in spec.features().items()}
    return {name: shape[0] if len(shape) == 1 else shape or 1 for name, shape in shapes.items()}

  def get_model_feature_lengths(self, task_feature_lengths: Lengths) -> Lengths:
    """Returns the lengths of the task's features, which the conversion does not change."""
    return dict(task_feature_lengths)

  def _convert_features(
    self, ds: tf.data.Dataset, task_feature_lengths: Lengths
  ) -> tf.data.Dataset:
    del task_feature_lengths
    return ds.map(lambda example: {name: example[name] for name in self.MODEL_FEATURES})


class WaveformFeatureConverter(seqio.FeatureConverter):
  """Pads crops with zeros.

  The result is {"waveform": float32 [samples], "length": int32}, where `length` is the number of
  samples before the padding.
  """

  TASK_FEATURES = {"waveform": FeatureSpec(dtype=tf.float32)}
  MODEL_FEATURES = {
    "waveform": FeatureSpec(dtype=tf.float32),
    "length": FeatureSpec(dtype=tf.int32, rank=0),
  }
  PACKING_FEATURE_DTYPES: Mapping[str, tf.DType] = {}

  def __init__(self):
    super().__init__(pack=False)

  def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
    """Returns the number of samples of the padded waveform, and 1 for the scalar `length`."""
    return {"waveform": task_feature_lengths["waveform"], "length": 1}

  def _convert_features(
    self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    def convert(example: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
      waveform = example["waveform"]
      return {
        "waveform": _pad(waveform, task_feature_lengths["waveform"], 0.0),
        "length": tf.size(waveform),
      }

    return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def _pad(values: tf.Tensor, length: int, value: float) -> tf.Tensor:
  padded = tf.pad(values, [[0, length - tf.size(values)]], constant_values=value)
  return tf.ensure_shape(padded, [length])
