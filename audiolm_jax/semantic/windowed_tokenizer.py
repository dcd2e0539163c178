"""Semantic tokens of clips of any length: windows of few sizes, side by side or one by one."""

import abc
import collections
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from audiolm_jax.semantic.conformer import ReceptiveField
from audiolm_jax.semantic.spec import SemanticSpec


@runtime_checkable
class Windowing(Protocol):
  """What a tokenizer's configuration says of its windows."""

  @property
  def receptive_field(self) -> ReceptiveField:
    """Steps before and after a kept step that are heard with it."""
    ...

  @property
  def window_steps(self) -> int:
    """Steps of the largest window, those heard with the kept ones included."""
    ...

  def size_for(self, num_steps: int) -> int:
    """Steps of the window that a short clip is filled up to."""
    ...


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


class WindowedTokenizer(abc.ABC):
  """Tokens of waveforms of any length, in bounded memory.

  A clip is cut into windows that depend on its own length only: batched, alone or as part of an
  hour, a clip goes through the same compiled windows.
  """

  def __init__(self, config: Any, params: Mapping[str, Any]):
    """`params` is {"encoder", "mean" [dim], "scale" [dim], "centroids" [clusters, dim]}."""
    self.config = config
    # Unlike jnp.asarray, compiles nothing.
    self.params = jax.device_put(dict(params))

  @property
  @abc.abstractmethod
  def spec(self) -> SemanticSpec:
    """Rates and number of ids."""

  def clip_input(self, waveform: Float[np.ndarray, "samples"]) -> Float[np.ndarray, "time ..."]:
    """What the windows of a clip are cut from: its waveform, or what needs the whole of it."""
    return waveform

  @abc.abstractmethod
  def window_input(
    self, clip: Float[np.ndarray, "time ..."], window: Window
  ) -> tuple[Float[np.ndarray, "padded ..."], int]:
    """What a window hears of a clip's `clip_input`, and how much of that is the clip.

    Windows of one size hear arrays of one shape.
    """

  @abc.abstractmethod
  def encode_windows(
    self, padded: Float[np.ndarray, "batch padded ..."], valid: Int[np.ndarray, "batch"]
  ) -> Encoded:
    """Every step of windows of one size; each row as if it were alone."""

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
    clips = [self.clip_input(waveform) for waveform in waveforms]
    pieces: list[dict[int, np.ndarray]] = [{} for _ in waveforms]
    by_size: dict[int, list[tuple[int, Window]]] = collections.defaultdict(list)
    for clip, waveform in enumerate(waveforms):
      for window in plan_windows(self.num_steps(len(waveform)), self.config):
        by_size[window.size].append((clip, window))
    for windows in by_size.values():
      whole = len(windows) // batch_size * batch_size
      batches = [windows[i : i + batch_size] for i in range(0, whole, batch_size)]
      for batch in batches + [[window] for window in windows[whole:]]:
        heard = [self.window_input(clips[clip], window) for clip, window in batch]
        rows, valid = np.stack([row for row, _ in heard]), np.array([v for _, v in heard], np.int32)
        ids = np.asarray(self.encode_windows(rows, valid).ids)
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
    dim = self.params["mean"].shape
    return self._padded_rows(waveform, lengths, lambda window: window.features, dim, np.float32)

  def _padded_rows(
    self,
    waveform: Float[np.ndarray | Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None,
    part: Callable[[Encoded], np.ndarray],
    shape: tuple[int, ...],
    dtype: type,
  ) -> np.ndarray:
    waveform = np.asarray(waveform, np.float32)
    batch, samples = waveform.shape
    rows = np.zeros((batch, self.num_steps(samples), *shape), dtype)
    for row in range(batch):
      length = samples if lengths is None else int(lengths[row])
      start = 0
      for window in self._windows(waveform[row, :length]):
        piece = part(window)
        rows[row, start : start + len(piece)] = piece
        start += len(piece)
    return rows

  def _windows(self, waveform: Float[np.ndarray, "samples"]) -> Iterator[Encoded]:
    """Consecutive stretches of a clip."""
    clip = self.clip_input(waveform)
    for window in plan_windows(self.num_steps(len(waveform)), self.config):
      padded, valid = self.window_input(clip, window)
      encoded = self.encode_windows(padded[None], np.array([valid], np.int32))
      yield Encoded(*(np.asarray(x)[0, window.keep_from : window.keep_to] for x in encoded))


def plan_windows(num_steps: int, config: Windowing) -> list[Window]:
  """Windows whose kept steps make up the clip and see their whole receptive field.

  A short clip is one window, filled up to one of few sizes; a long one is cut into windows of one
  size. So few shapes are ever compiled.
  """
  if not num_steps:
    return []
  largest = config.window_steps
  if num_steps <= largest:
    return [Window(0, min(config.size_for(num_steps), largest), num_steps, 0, num_steps)]
  windows, done, field = [], 0, config.receptive_field
  while done < num_steps:
    start = max(0, done - field.left)
    valid = min(largest, num_steps - start)
    at_end = start + valid == num_steps
    end = num_steps if at_end else start + largest - field.right
    windows.append(Window(start, largest, valid, done - start, end - start))
    done = end
  return windows
