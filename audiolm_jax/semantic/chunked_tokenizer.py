"""The base class of semantic tokenizers, for clips of any length."""

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.chunking import ChunkedModel, Sizes, Sliced, clips_of, rows_of, run
from audiolm_jax.core import forks
from audiolm_jax.core.arrays import Array
from audiolm_jax.core.modules import Params
from audiolm_jax.semantic.spec import SemanticSpec


class TokenizedFeatures(NamedTuple):
  """Whitened features and the ids of their nearest centroids."""

  features: Float[Array, "... dim"]
  ids: Int[Array, "..."]


class ChunkedTokenizer(abc.ABC):
  """Tokenizes waveforms of any length in chunks.

  The chunks of a clip depend only on the length of the clip, not on the other clips that are
  tokenized at the same time.
  """

  # `encode_chunks` also receives these numbers of inputs before and after a chunk.
  margins: tuple[int, int] = (0, 0)

  def __init__(self, config: Any, params: Params):
    """Moves the parameters to the device.

    Args:
      config: an object with three members. `receptive_field` has the numbers of earlier and
        later steps that the token of a step depends on. `window_steps` is the number of steps of
        the largest chunk. `size_for` maps the number of steps of a shorter clip to a chunk size.
      params: {"encoder", "mean" [dim], "scale" [dim], "centroids" [clusters, dim]}.

    Raises:
      UserError: the process was forked after JAX started.
    """
    forks.check()
    self.config = config
    # Unlike jnp.asarray, device_put compiles no program.
    self.params = jax.device_put(dict(params))

  @property
  @abc.abstractmethod
  def spec(self) -> SemanticSpec:
    """The sample rate, the hop length and the number of ids."""

  @abc.abstractmethod
  def encode_chunks(
    self,
    inputs: Float[np.ndarray | Array, "batch inputs ..."],
    ends: Int[np.ndarray | Array, "batch"],
  ) -> TokenizedFeatures:
    """Returns the features and ids of all steps in a batch of equally large chunks.

    Args:
      inputs: inputs of the chunks with their margins; zeros outside of the clips.
      ends: number of inputs from the first step of each chunk to the end of its clip; the clip may
        end after the chunk.
    """

  @property
  def inputs_per_step(self) -> int:
    """Number of inputs per token, along the first axis of the array from `inputs_of`."""
    return self.spec.hop_length

  def inputs_of(
    self, waveform: Float[np.ndarray, "samples"] | Sliced
  ) -> Float[np.ndarray, "inputs ..."] | Sliced:
    """Returns the array to cut into chunks: the waveform, or in subclasses features of the clip."""
    return waveform

  @property
  def token_params(self) -> Params:
    """The parameters that determine the tokens: all, unless a subclass selects some."""
    return self.params

  def num_steps(self, samples: int) -> int:
    """Returns the number of tokens; the last token may extend past the end of the samples."""
    return -(-samples // self.spec.hop_length)

  def tokenize(
    self,
    waveform: Float[np.ndarray | Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Int[np.ndarray, "batch steps"]:
    """Returns the ids of `ceil(samples / hop_length)` steps.

    Args:
      waveform: one clip per row.
      lengths: number of samples in the clip of each row; ids after its end are 0. By default, clips
        fill their rows.
    """
    return self._rows(self.id_model, np.asarray(waveform), lengths)

  def tokenize_long(
    self, waveform: Float[np.ndarray, "samples"] | Sliced
  ) -> Int[np.ndarray, "steps"]:
    """Returns the ids of one clip, the same as `tokenize`; the clip can be read in slices."""
    return self._run(self.id_model, [waveform], 1)[0]

  def tokenize_clips(
    self, waveforms: Sequence[Float[np.ndarray, "_"]], batch_size: int
  ) -> list[Int[np.ndarray, "_"]]:
    """Returns the ids of each clip.

    They equal the ids of `tokenize_long`, except if rounding errors decide between two centroids.

    Args:
      waveforms: the clips.
      batch_size: number of chunks in a batch; a batch can contain chunks of several clips.
    """
    return self._run(self.id_model, waveforms, batch_size)

  def features(
    self,
    waveform: Float[np.ndarray | Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Float[np.ndarray, "batch steps dim"]:
    """Returns the whitened features whose nearest centroids are the tokens.

    Args:
      waveform: one clip per row.
      lengths: number of samples in the clip of each row; features after its end are 0. By default,
        clips fill their rows.
    """
    nothing = np.zeros((0, *self.params["mean"].shape), np.float32)
    return self._rows(self._model("features", nothing), np.asarray(waveform), lengths)

  @property
  def id_model(self) -> ChunkedModel:
    """The model that maps the array from `inputs_of` to ids, in chunks."""
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
    self, model: ChunkedModel, waveforms: Sequence[np.ndarray | Sliced], batch_size: int
  ) -> list[np.ndarray]:
    inputs = [self.inputs_of(waveform) for waveform in waveforms]
    return run(model, inputs, batch_size, [self.num_steps(len(w)) for w in waveforms])

  def _rows(
    self, model: ChunkedModel, waveform: np.ndarray, lengths: np.ndarray | None
  ) -> np.ndarray:
    results = self._run(model, clips_of(waveform, lengths), 1)
    return rows_of(results, model.nothing, self.num_steps(waveform.shape[1]))


def unwhitened(encoder: Params, centroids: Float[np.ndarray, "clusters dim"]) -> Params:
  """Returns the parameters of a tokenizer without whitening: mean 0 and scale 1."""
  dim = centroids.shape[1]
  return {
    "encoder": encoder,
    "mean": np.zeros(dim, np.float32),
    "scale": np.ones(dim, np.float32),
    "centroids": centroids,
  }
