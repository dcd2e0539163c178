"""Waveform to semantic tokens: truncated encoder, whitening, nearest centroid."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from audiolm_jax.errors import ConfigError
from audiolm_jax.semantic.conformer import (
  FRAMES_PER_STEP,
  ConformerConfig,
  ConformerEncoder,
  ReceptiveField,
)
from audiolm_jax.semantic.features import normalised_log_mel, power_spectrum
from audiolm_jax.semantic.kmeans import nearest_centroid

_SMALLEST_BUCKET = 64


@dataclasses.dataclass(frozen=True)
class SemanticSpec:
  """The numbers that describe semantic tokens.

  Attributes:
    sample_rate: Hz.
    hop_length: samples per token.
    num_clusters: ids are in [0, num_clusters).
  """

  sample_rate: int = 16_000
  hop_length: int = 640
  num_clusters: int = 1024

  @property
  def frame_rate(self) -> float:
    """Tokens per second."""
    return self.sample_rate / self.hop_length


@dataclasses.dataclass(frozen=True)
class SemanticTokenizerConfig:
  """Defaults: AudioLM's, w2v-BERT XL at layer 7 of its masked-prediction module, K = 1024.

  Attributes:
    encoder: as it was trained; only its first `layer` blocks are used.
    layer: counted from 1 through all stacks.
    chunk_steps: tokens that one window of a long file yields, its context not counted.
  """

  encoder: ConformerConfig = ConformerConfig()
  layer: int = 19
  num_clusters: int = 1024
  chunk_steps: int = 512

  def __post_init__(self) -> None:
    self.encoder.truncated(self.layer)
    if self.chunk_steps < 1:
      raise ConfigError(f"chunk_steps {self.chunk_steps} must be at least 1")

  @property
  def receptive_field(self) -> ReceptiveField:
    """Steps before and after a token that it depends on."""
    return self.encoder.receptive_field(self.layer)

  @property
  def window_steps(self) -> int:
    """Steps of the largest window, context included."""
    field = self.receptive_field
    return field.left + self.chunk_steps + field.right


class SemanticTokenizer:
  """Tokens of waveforms of any length, in bounded memory.

  A clip is cut into windows that depend on its own length only, with the whole receptive field
  around them: batched, alone or as part of an hour, a clip goes through the same compiled windows.
  """

  def __init__(self, config: SemanticTokenizerConfig, params: Mapping[str, Any]):
    """`params` is {"encoder", "mean" [dim], "scale" [dim], "centroids" [clusters, dim]}."""
    self.config = config
    # Unlike jnp.asarray, compiles nothing.
    self.params = jax.device_put(dict(params))

  @property
  def spec(self) -> SemanticSpec:
    """Rates and number of ids."""
    encoder = self.config.encoder
    return SemanticSpec(encoder.features.sample_rate, encoder.hop_length, self.config.num_clusters)

  @property
  def token_params(self) -> dict[str, Any]:
    """The parameters that decide the tokens: all of them."""
    return self.params

  def tokenize(
    self,
    waveform: Float[np.ndarray | Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Int[np.ndarray, "batch steps"]:
    """Ids of `ceil(samples / hop_length)` steps; 0 past the end of a row that `lengths` ends."""
    return self._padded_rows(waveform, lengths, lambda window: window.ids, (), np.int32)

  def tokenize_long(self, waveform: Float[np.ndarray, "samples"]) -> Int[np.ndarray, "steps"]:
    """Ids of one long clip, memory bounded by a window; equal to `tokenize`."""
    pieces = [window.ids for window in self._windows(np.asarray(waveform))]
    return np.concatenate([np.zeros(0, np.int32), *pieces])

  def tokenize_clips(
    self, waveforms: Sequence[Float[np.ndarray, "samples"]], batch_size: int
  ) -> list[Int[np.ndarray, "steps"]]:
    """Ids of each clip; equal to `tokenize_long`, but windows of one size go side by side.

    What does not fill a batch goes one by one, so that each size is compiled twice at most.
    """
    pieces: list[dict[int, np.ndarray]] = [{} for _ in waveforms]
    by_size: dict[int, list[tuple[int, Window]]] = collections.defaultdict(list)
    for clip, waveform in enumerate(waveforms):
      for window in plan_windows(self.config.encoder.num_steps(len(waveform)), self.config):
        by_size[window.size].append((clip, window))
    for windows in by_size.values():
      whole = len(windows) // batch_size * batch_size
      batches = [windows[i : i + batch_size] for i in range(0, whole, batch_size)]
      for batch in batches + [[window] for window in windows[whole:]]:
        rows = np.stack([self._padded(waveforms[clip], window) for clip, window in batch])
        valid = np.array([window.valid for _, window in batch], np.int32)
        ids = np.asarray(_encode(self.config, self.params, rows, valid).ids)
        for row, (clip, window) in zip(ids, batch, strict=True):
          pieces[clip][window.start] = row[window.keep_from : window.keep_to]
    return [
      np.concatenate([np.zeros(0, np.int32), *(of_clip[start] for start in sorted(of_clip))])
      for of_clip in pieces
    ]

  def features(
    self,
    waveform: Float[np.ndarray | Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Float[np.ndarray, "batch steps dim"]:
    """Whitened features of the chosen layer; 0 past the end of a row."""
    dim = (self.config.encoder.dim,)
    return self._padded_rows(waveform, lengths, lambda window: window.features, dim, np.float32)

  def _padded_rows(
    self,
    waveform: Float[np.ndarray | Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None,
    part: Callable[["Encoded"], np.ndarray],
    shape: tuple[int, ...],
    dtype: type,
  ) -> np.ndarray:
    waveform = np.asarray(waveform, np.float32)
    batch, samples = waveform.shape
    rows = np.zeros((batch, self.config.encoder.num_steps(samples), *shape), dtype)
    for row in range(batch):
      length = samples if lengths is None else int(lengths[row])
      start = 0
      for window in self._windows(waveform[row, :length]):
        piece = part(window)
        rows[row, start : start + len(piece)] = piece
        start += len(piece)
    return rows

  def _windows(self, waveform: Float[np.ndarray, "samples"]) -> Iterator["Encoded"]:
    """Consecutive stretches of a clip."""
    config = self.config
    for window in plan_windows(config.encoder.num_steps(len(waveform)), config):
      valid = np.array([window.valid], np.int32)
      encoded = _encode(config, self.params, self._padded(waveform, window)[None], valid)
      yield Encoded(*(np.asarray(x)[0, window.keep_from : window.keep_to] for x in encoded))

  def _padded(
    self, waveform: Float[np.ndarray, "samples"], window: "Window"
  ) -> Float[np.ndarray, "padded"]:
    """What a window hears, its margins included, with zeros where the clip has no more."""
    hop, margin = self.config.encoder.hop_length, self.config.encoder.features.margin
    first = window.start * hop - margin
    last = (window.start + window.size) * hop + margin
    piece = np.asarray(waveform[max(0, first) : last], np.float32)
    before = max(0, -first)
    return np.pad(piece, (before, last - first - before - len(piece)))


class Encoded(NamedTuple):
  """Whitened features and the ids of the centroids nearest to them."""

  features: Float[Array, "... dim"]
  ids: Int[Array, "..."]


class Window(NamedTuple):
  """`size` steps from step `start` of a clip, `valid` of them inside it, some of them kept."""

  start: int
  size: int
  valid: int
  keep_from: int
  keep_to: int


def plan_windows(num_steps: int, config: SemanticTokenizerConfig) -> list[Window]:
  """Windows whose kept steps make up the clip and see their whole receptive field.

  A short clip is one window, its size the next power of two; a long one is cut into windows of one
  size. So a handful of shapes is all that is ever compiled.
  """
  if not num_steps:
    return []
  largest = config.window_steps
  if num_steps <= largest:
    size = _SMALLEST_BUCKET
    while size < num_steps:
      size *= 2
    return [Window(0, min(size, largest), num_steps, 0, num_steps)]
  windows, done, field = [], 0, config.receptive_field
  while done < num_steps:
    start = max(0, done - field.left)
    valid = min(largest, num_steps - start)
    at_end = start + valid == num_steps
    end = num_steps if at_end else start + largest - field.right
    windows.append(Window(start, largest, valid, done - start, end - start))
    done = end
  return windows


@functools.partial(jax.jit, static_argnums=0)
def _encode(
  config: SemanticTokenizerConfig,
  params: Mapping[str, Any],
  padded: Float[Array, "batch padded"],
  valid: Int[Array, "batch"],
) -> Encoded:
  """Windows of waveform that bring their margins; the first `valid` steps of each count."""
  encoder = config.encoder.truncated(config.layer)
  log_mel = normalised_log_mel(power_spectrum(padded, encoder.features), encoder.features)
  inside = jnp.arange(log_mel.shape[1] // FRAMES_PER_STEP)[None] < valid[:, None]
  model = ConformerEncoder(encoder)
  features = model.apply({"params": params["encoder"]}, log_mel, inside)
  features = (features.astype(jnp.float32) - params["mean"]) / params["scale"]
  # In the same program as the encoder: a near tie must fall alike however a clip is batched.
  return Encoded(features, nearest_centroid(features, params["centroids"]))
