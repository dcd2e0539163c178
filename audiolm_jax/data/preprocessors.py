"""SeqIO preprocessors of waveforms and tokens.

Most of them are thin wrappers around NumPy functions; `tokenize` runs the tokenizers of a bundle.

The preprocessors before `seqio.CacheDatasetPlaceholder` in a task are deterministic, so that their
results can be cached. Random preprocessors follow the placeholder and receive seeds from SeqIO.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import numpy as np
import seqio
import tensorflow as tf

from audiolm_jax.core.streams import CODES, SEMANTIC
from audiolm_jax.data import examples
from audiolm_jax.lm.stage import StageSpec

if TYPE_CHECKING:
  from audiolm_jax.bundles.bundle import Bundle

Preprocessor = Callable[[tf.data.Dataset], tf.data.Dataset]

_ABOUT = ("id", "speaker", "token_hash")  # features of a clip besides its tokens


def tokenize(dataset: tf.data.Dataset, tokenizers: "Bundle") -> tf.data.Dataset:
  """Replaces `waveform` by the tokens of the whole clip and adds `token_hash`.

  The tokens are `semantic`, int32 [steps], and `codes`, int32 [frames, quantizers].
  """
  num_quantizers = tokenizers.codec.spec.num_quantizers

  def tokens(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    semantic = np.asarray(tokenizers.semantic.tokenize_long(waveform), np.int32)
    return semantic, np.asarray(tokenizers.codec.encode_long(waveform), np.int32)

  def convert(example: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
    example = dict(example)
    semantic, codes = tf.numpy_function(tokens, [example.pop("waveform")], [tf.int32, tf.int32])
    return {
      **example,
      "token_hash": tf.constant(tokenizers.token_hash),
      SEMANTIC: tf.ensure_shape(semantic, [None]),
      CODES: tf.ensure_shape(codes, [None, num_quantizers]),
    }

  return dataset.map(convert)


def check_token_hash(dataset: tf.data.Dataset, token_hash: str, name: str) -> tf.data.Dataset:
  """Returns the examples; reading an example raises an error if its hash is not `token_hash`.

  Args:
    dataset: examples with tokens.
    token_hash: hash that the tokenizers must have.
    name: name of the task with the cache, for the error message.
  """
  remedy = f"cache it again: seqio_cache_tasks --tasks={name} --overwrite"

  def check(example: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
    other = example["token_hash"]
    message = tf.strings.join(
      [
        f"DataError: the cache of {name} has tokens of other tokenizers (",
        other,
        f") than the bundle's ({token_hash}); {remedy}",
      ]
    )
    with tf.control_dependencies([tf.debugging.Assert(other == token_hash, [message])]):
      return {key: tf.identity(value) for key, value in example.items()}

  return dataset.map(check)


def to_pcm16(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Replaces `waveform` by `pcm`, a string of 16-bit samples; this halves the size of the cache."""

  def convert(example: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
    example = dict(example)
    pcm = tf.numpy_function(_pcm16_bytes, [example.pop("waveform")], tf.string)
    return {**example, "pcm": tf.ensure_shape(pcm, [])}

  return dataset.map(convert)


def split_long(dataset: tf.data.Dataset, segment_samples: int) -> tf.data.Dataset:
  """Splits long clips into parts of about `segment_samples` samples.

  Without this step, a random crop would read a whole long clip.

  The parts have the ids `id#0`, `id#1`, ...; a clip that is not split keeps its id.
  """

  def parts(example: Mapping[str, tf.Tensor]) -> tf.data.Dataset:
    bounds = tf.numpy_function(
      lambda n: np.array(examples.segments(int(n), segment_samples), np.int64),
      [tf.size(example["waveform"])],
      tf.int64,
    )
    bounds = tf.ensure_shape(bounds, [None, 2])
    count = tf.shape(bounds, tf.int64)[0]

    def part(index: tf.Tensor) -> Mapping[str, tf.Tensor]:
      numbered = tf.strings.join([example["id"], "#", tf.strings.as_string(index)])
      waveform = example["waveform"][bounds[index, 0] : bounds[index, 1]]
      return {
        **example,
        "id": tf.where(count > 1, numbered, example["id"]),
        "waveform": waveform,
      }

    return tf.data.Dataset.range(count).map(part)

  return dataset.flat_map(parts)


def crop_waveforms(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int] | None = None,
  gain_db: tuple[float, float] | None = None,
) -> tf.data.Dataset:
  """Replaces `pcm` by `waveform`, a random crop of `sequence_length["waveform"]` samples.

  A shorter clip is not padded. The example also contains the seed of the crop, as `seed`.

  Args:
    dataset: examples with 16-bit samples.
    sequence_length: lengths of the features; None for whole clips instead of crops.
    gain_db: lowest and highest random gain in dB; None does not change the level.
  """
  num_samples = (sequence_length or {}).get("waveform")

  def crop(pcm: bytes, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    samples = np.frombuffer(pcm, "<i2")
    size = num_samples or len(samples)
    example = examples.waveform_example(samples, size, (int(first), int(second)), gain_db)
    return example["waveform"][: example["length"]]

  def convert(example: Mapping[str, tf.Tensor], seed: tf.Tensor) -> Mapping[str, tf.Tensor]:
    example = dict(example)
    waveform = tf.numpy_function(crop, [example.pop("pcm"), seed[0], seed[1]], tf.float32)
    return {**example, "waveform": tf.ensure_shape(waveform, [None]), "seed": tf.stack(seed)}

  return _with_seeds(convert)(dataset)


def only_usable(dataset: tf.data.Dataset, spec: StageSpec) -> tf.data.Dataset:
  """Removes the clips that cannot be examples of a stage."""
  keys = list(spec.streams)

  def usable(*tokens: np.ndarray) -> np.ndarray:
    return np.asarray(not spec.refusal(dict(zip(keys, tokens, strict=True))))

  def is_usable(example: Mapping[str, tf.Tensor]) -> tf.Tensor:
    found = tf.numpy_function(usable, [example[key] for key in keys], tf.bool)
    return tf.ensure_shape(found, [])

  return dataset.filter(is_usable)


def repeat_by_length(dataset: tf.data.Dataset, spec: StageSpec) -> tf.data.Dataset:
  """Repeats long clips about once per crop length, so that all audio has about equal weight."""
  keys = list(spec.streams)

  def repeats(*tokens: np.ndarray) -> np.ndarray:
    record = dict(zip(keys, tokens, strict=True))
    return np.asarray(examples.num_crops(*examples.token_cells(spec, record)), np.int64)

  def repeated(example: Mapping[str, tf.Tensor]) -> tf.data.Dataset:
    count = tf.numpy_function(repeats, [example[key] for key in keys], tf.int64)
    return tf.data.Dataset.from_tensors(example).repeat(tf.ensure_shape(count, []))

  return dataset.flat_map(repeated)


def stage_examples(dataset: tf.data.Dataset, spec: StageSpec) -> tf.data.Dataset:
  """Replaces the tokens of each clip by the features of a random crop.

  The example also contains the seed of the crop, as `seed`.
  """
  keys, features = list(spec.streams), spec.features()

  def make(first: np.ndarray, second: np.ndarray, *tokens: np.ndarray) -> list[np.ndarray]:
    record = dict(zip(keys, tokens, strict=True))
    made = examples.stage_example(spec, record, (int(first), int(second)))
    return [made[name] for name in features]

  def convert(example: Mapping[str, tf.Tensor], seed: tf.Tensor) -> Mapping[str, tf.Tensor]:
    inputs = [seed[0], seed[1], *(example[key] for key in keys)]
    made = tf.numpy_function(make, inputs, [tf.as_dtype(f.dtype) for f in features.values()])
    return {
      **{name: example[name] for name in _ABOUT},
      **{
        name: tf.ensure_shape(value, feature.shape)
        for (name, feature), value in zip(features.items(), made, strict=True)
      },
      "seed": tf.stack(seed),
    }

  return _with_seeds(convert)(dataset)


def _with_seeds(
  convert: Callable[[Mapping[str, tf.Tensor], tf.Tensor], Mapping[str, tf.Tensor]],
) -> Preprocessor:
  return cast(Preprocessor, seqio.map_over_dataset(convert, num_seeds=1))


def _pcm16_bytes(waveform: np.ndarray) -> bytes:
  return examples.to_pcm16(waveform).astype("<i2").tobytes()
