"""The base of tokenizers: semantic tokens of clips of any length, side by side or one by one."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from audiolm_jax.chunking import ChunkedModel, Sizes, clips_of, rows_of, run
from audiolm_jax.semantic.spec import SemanticSpec


class Encoded(NamedTuple):
  """Whitened features and the ids of the centroids nearest to them."""

  features: Float[Array, "... dim"]
  ids: Int[Array, "..."]


class ChunkedTokenizer(abc.ABC):
  """Tokens of waveforms of any length, in bounded memory.

  A clip is cut into chunks that depend on its own length only: batched, alone or as part of an
  hour, a clip goes through the same compiled chunks.
  """

  # Inputs before and after a chunk's own that `encode_chunks` receives.
  margins: tuple[int, int] = (0, 0)

  def __init__(self, config: Any, params: Mapping[str, Any]):
    """Parameters on the device.

    Args:
      config: says `receptive_field`, the steps to the left and right of a step that are in its
        chunk; `window_steps`, those of the largest chunk; and `size_for`, those of a shorter clip.
      params: {"encoder", "mean" [dim], "scale" [dim], "centroids" [clusters, dim]}.
    """
    self.config = config
    # Unlike jnp.asarray, compiles nothing.
    self.params = jax.device_put(dict(params))

  @property
  @abc.abstractmethod
  def spec(self) -> SemanticSpec:
    """Rates and number of ids."""

  @abc.abstractmethod
  def encode_chunks(
    self, inputs: Float[np.ndarray, "batch inputs ..."], ends: Int[np.ndarray, "batch"]
  ) -> Encoded:
    """Every step of chunks of one size; each row as if it were alone.

    Args:
      inputs: of the chunks, with their margins; zeros outside of the clip.
      ends: inputs from a chunk's first step to its clip's end, which may lie beyond the chunk.
    """

  @property
  def inputs_per_step(self) -> int:
    """Of `inputs_of`, for each token."""
    return self.spec.hop_length

  def inputs_of(self, waveform: Float[np.ndarray, "samples"]) -> Float[np.ndarray, "inputs ..."]:
    """What the chunks of a clip are cut from: its waveform, or what needs the whole of it."""
    return waveform

  @property
  def token_params(self) -> dict[str, Any]:
    """The parameters that decide the tokens: all of them."""
    return self.params

  def num_steps(self, samples: int) -> int:
    """Tokens of that many samples; the last one may reach past their end."""
    return -(-samples // self.spec.hop_length)

  def tokenize(
    self,
    waveform: Float[np.ndarray | Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Int[np.ndarray, "batch steps"]:
    """Ids of `ceil(samples / hop_length)` steps; 0 past the end of a row that `lengths` ends."""
    return self._rows(self.id_model, np.asarray(waveform), lengths)

  def tokenize_long(self, waveform: Float[np.ndarray, "samples"]) -> Int[np.ndarray, "steps"]:
    """Ids of one long clip, memory bounded by a chunk; equal to `tokenize`."""
    return self._run(self.id_model, [np.asarray(waveform)], 1)[0]

  def tokenize_clips(
    self, waveforms: Sequence[Float[np.ndarray, "samples"]], batch_size: int
  ) -> list[Int[np.ndarray, "steps"]]:
    """Ids of each clip; equal to `tokenize_long`, but chunks of one size go side by side."""
    return self._run(self.id_model, waveforms, batch_size)

  def features(
    self,
    waveform: Float[np.ndarray | Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Float[np.ndarray, "batch steps dim"]:
    """Whitened features of the chosen layer; 0 past the end of a row."""
    nothing = np.zeros((0, *self.params["mean"].shape), np.float32)
    return self._rows(self._model("features", nothing), np.asarray(waveform), lengths)

  @property
  def id_model(self) -> ChunkedModel:
    """The model whose results are ids."""
    return self._model("ids", np.zeros(0, np.int32))

  def _model(self, part: str, nothing: np.ndarray) -> ChunkedModel:
    c = self.config
    left, right = c.receptive_field
    return ChunkedModel(
      lambda inputs, ends, state: (getattr(self.encode_chunks(inputs, ends), part), state),
      nothing,
      Sizes(c.window_steps, c.size_for),
      left=left,
      right=right,
      unit=self.inputs_per_step,
      margins=self.margins,
      pooled=True,
    )

  def _run(
    self, model: ChunkedModel, waveforms: Sequence[np.ndarray], batch_size: int
  ) -> list[np.ndarray]:
    inputs = [self.inputs_of(waveform) for waveform in waveforms]
    return run(model, inputs, batch_size, [self.num_steps(len(w)) for w in waveforms])

  def _rows(
    self, model: ChunkedModel, waveform: np.ndarray, lengths: np.ndarray | None
  ) -> np.ndarray:
    results = self._run(model, clips_of(waveform, lengths), 1)
    return rows_of(results, model.nothing, self.num_steps(waveform.shape[1]))
