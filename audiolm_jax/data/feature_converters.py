"""From the features of a SeqIO task to those of a model: padding and the shifted decoder input."""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from audiolm_jax.lm.tokens import BOS, PAD

FeatureSpec = seqio.FeatureConverter.FeatureSpec


class StageFeatureConverter(seqio.FeatureConverter):
  """Sequences of any of the three stages to the features of `lm.stages.stage_features`.

  `task_feature_lengths` names the padded length for each of `tokens`, `loss_weights` and
  `frame_ids`; `lengths` makes that mapping of one number.
  """

  TASK_FEATURES = {
    "tokens": FeatureSpec(dtype=tf.int32),
    "loss_weights": FeatureSpec(dtype=tf.float32),
    "frame_ids": FeatureSpec(dtype=tf.int32),
  }
  MODEL_FEATURES = {
    "decoder_input_tokens": FeatureSpec(dtype=tf.int32),
    "decoder_target_tokens": FeatureSpec(dtype=tf.int32),
    "decoder_loss_weights": FeatureSpec(dtype=tf.float32),
    "decoder_frame_ids": FeatureSpec(dtype=tf.int32),
  }
  PACKING_FEATURE_DTYPES: Mapping[str, tf.DType] = {}

  def __init__(self):
    super().__init__(pack=False, bos_id=BOS)

  @classmethod
  def lengths(cls, length: int) -> dict[str, int]:
    """`task_feature_lengths` for sequences padded to `length`, `StageSpec.max_length`."""
    return dict.fromkeys(cls.TASK_FEATURES, length)

  def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
    """The same length for every feature of the model."""
    return dict.fromkeys(self.MODEL_FEATURES, task_feature_lengths["tokens"])

  def _convert_features(
    self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    length = task_feature_lengths["tokens"]

    def convert(example: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
      targets = example["tokens"]
      inputs = tf.concat([[BOS], targets[:-1]], axis=0)
      return {
        "decoder_input_tokens": _pad(inputs, length, PAD),
        "decoder_target_tokens": _pad(targets, length, PAD),
        "decoder_loss_weights": _pad(example["loss_weights"], length, 0.0),
        "decoder_frame_ids": _pad(example["frame_ids"], length, 0),
      }

    return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


class WaveformFeatureConverter(seqio.FeatureConverter):
  """Crops to {"waveform": float32 [samples], "length": int32}, zero padded to the asked length."""

  TASK_FEATURES = {"waveform": FeatureSpec(dtype=tf.float32)}
  MODEL_FEATURES = {
    "waveform": FeatureSpec(dtype=tf.float32),
    "length": FeatureSpec(dtype=tf.int32, rank=0),
  }
  PACKING_FEATURE_DTYPES: Mapping[str, tf.DType] = {}

  def __init__(self):
    super().__init__(pack=False)

  def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
    """Samples of the padded waveform; `length` is a scalar."""
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
