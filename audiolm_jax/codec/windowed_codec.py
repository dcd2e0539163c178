"""Codecs that hear both ways, in windows: bounded memory, rows of unequal lengths, look-ahead.

A frame of such a codec depends on some frames after it too. Here every frame goes through the
model in a window that holds all it depends on, so that long clips, batches and streams give what
the model gives for one clip alone. Where a clip ends inside a window the model is told, for zeros
behind a clip are not what its own padding is: that pads the input of every layer.
"""

import abc
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.codec.clips import RowEncoder
from audiolm_jax.codec.interface import CodecSpec

# Frames of the largest window, and those that a smaller one is a multiple of: few programs.
_LARGEST, _STEP = 512, 64

Run = Callable[[np.ndarray, np.ndarray], jax.Array]


class Reach(NamedTuple):
  """How many frames before and after its own a result depends on."""

  before: int
  after: int


class WindowedCodec(RowEncoder):
  """A `Codec` made of two functions of a window; the parameters are held on the device."""

  def __init__(self, config: Any, params: Mapping[str, Any]):
    """`config` has a `spec`; `params` has a "decoder", which decides no code."""
    self.config = config
    # Unlike jnp.asarray, compiles nothing.
    self.params = jax.device_put(dict(params))

  @property
  @abc.abstractmethod
  def encoder_reach(self) -> Reach:
    """Frames of sound that the codes of a frame depend on."""

  @property
  @abc.abstractmethod
  def decoder_reach(self) -> Reach:
    """Frames of codes that the samples of a frame depend on."""

  @property
  @abc.abstractmethod
  def codebooks(self) -> Float[np.ndarray | jax.Array, "quantizers size dim"]:
    """The vectors that the codes stand for, one table per level; a frame is the sum of its own."""

  @abc.abstractmethod
  def encode_window(
    self, frames: Float[np.ndarray, "batch frames hop"], ends: Int[np.ndarray, "batch"]
  ) -> Int[jax.Array, "batch frames q"]:
    """Codes of a window of samples; each row's clip ends at a frame, and is silent from there."""

  @abc.abstractmethod
  def decode_window(
    self, codes: Int[np.ndarray, "batch frames q"], ends: Int[np.ndarray, "batch"]
  ) -> Float[jax.Array, "batch frames hop"]:
    """Samples of a window of codes; codes from a row's end on must not be heard."""

  @property
  def spec(self) -> CodecSpec:
    return self.config.spec

  @property
  def token_params(self) -> dict[str, Any]:
    """The parameters that decide the codes: all but the decoder's."""
    return {name: value for name, value in self.params.items() if name != "decoder"}

  def encode(
    self,
    waveform: Float[np.ndarray | jax.Array, "batch samples"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Int[np.ndarray, "batch frames q"]:
    """Codes of `ceil(samples / hop_length)` frames, the last one zero padded.

    Args:
      waveform: one clip a row.
      lengths: samples of each row that count; its codes past them are 0.
    """
    hop = self.spec.hop_length
    waveform = np.asarray(waveform, np.float32)
    batch, samples = waveform.shape
    if lengths is not None:
      waveform = np.where(np.arange(samples) < np.asarray(lengths)[:, None], waveform, 0)
    frames = -(-samples // hop)
    ends = np.full(batch, frames) if lengths is None else -(-np.asarray(lengths) // hop)
    waveform = np.pad(waveform, ((0, 0), (0, frames * hop - samples)))
    codes = _in_windows(
      self.encode_window,
      waveform.reshape(batch, frames, hop),
      ends,
      self.encoder_reach,
      np.zeros((batch, 0, self.spec.num_quantizers), np.int32),
    )
    return np.where((np.arange(frames) < ends[:, None])[..., None], codes, 0)

  def decode(
    self,
    codes: Int[np.ndarray | jax.Array, "batch frames q"],
    lengths: Int[np.ndarray, "batch"] | None = None,
  ) -> Float[np.ndarray, "batch samples"]:
    """Waveform of `frames * hop_length` samples from the first `q` levels.

    Args:
      codes: of one clip a row.
      lengths: frames of each row that count; its samples past them are 0.
    """
    codes = np.asarray(codes, np.int32)
    batch, frames, _ = codes.shape
    ends = np.full(batch, frames) if lengths is None else np.asarray(lengths)
    nothing = np.zeros((batch, 0, self.spec.hop_length), np.float32)
    waveform = _in_windows(self.decode_window, codes, ends, self.decoder_reach, nothing)
    waveform = np.where((np.arange(frames) < ends[:, None])[..., None], waveform, 0)
    return waveform.reshape(batch, frames * self.spec.hop_length)

  def stream_encoder(self, batch: int = 1) -> "WindowedEncoderStream":
    """A new stream; a frame's codes come `encoder_reach.after` frames after its samples."""
    return WindowedEncoderStream(self, batch)

  def stream_decoder(self, batch: int = 1) -> "WindowedDecoderStream":
    """A new stream; a frame's samples come `decoder_reach.after` frames after its codes."""
    return WindowedDecoderStream(self, batch)


class WindowedEncoderStream:
  """Waveform pieces of any length in; codes out as soon as all is heard that they depend on."""

  def __init__(self, codec: WindowedCodec, batch: int):
    hop, q = codec.spec.hop_length, codec.spec.num_quantizers
    nothing = np.zeros((batch, 0, q), np.int32)
    self._stream = _Stream(codec.encode_window, codec.encoder_reach, nothing)
    self._waiting = np.zeros((batch, 0), np.float32)
    self._hop = hop

  def push(self, waveform: Float[np.ndarray, "batch samples"]) -> Int[np.ndarray, "batch frames q"]:
    """Codes of every frame that no sample still to come can change."""
    heard = np.concatenate([self._waiting, np.asarray(waveform, np.float32)], axis=1)
    ready = heard.shape[1] // self._hop * self._hop
    self._waiting = heard[:, ready:]
    return self._stream.push(heard[:, :ready].reshape(len(heard), -1, self._hop))

  def flush(self) -> Int[np.ndarray, "batch frames q"]:
    """Codes of the frames that are left, the last one zero padded."""
    missing = -self._waiting.shape[1] % self._hop
    ahead = self.push(np.zeros((len(self._waiting), missing), np.float32))
    return np.concatenate([ahead, self._stream.flush()], axis=1)


class WindowedDecoderStream:
  """Code frames in; samples out as soon as all codes are there that they depend on."""

  def __init__(self, codec: WindowedCodec, batch: int):
    nothing = np.zeros((batch, 0, codec.spec.hop_length), np.float32)
    self._stream = _Stream(codec.decode_window, codec.decoder_reach, nothing)

  def push(self, codes: Int[np.ndarray, "batch frames q"]) -> Float[np.ndarray, "batch samples"]:
    """The samples of every frame that no code still to come can change."""
    pieces = self._stream.push(np.asarray(codes, np.int32))
    return pieces.reshape(len(pieces), -1)

  def flush(self) -> Float[np.ndarray, "batch samples"]:
    """The samples of the frames that are left."""
    pieces = self._stream.flush()
    return pieces.reshape(len(pieces), -1)


class _Stream:
  """Keeps the frames that results still to come depend on."""

  def __init__(self, run: Run, reach: Reach, nothing: np.ndarray):
    self._run, self._reach, self._nothing = run, reach, nothing
    self._kept: np.ndarray | None = None
    self._done = 0  # counted from the first frame that is kept

  def push(self, frames: np.ndarray) -> np.ndarray:
    """Results of the frames that have all that follows them in their reach."""
    if self._kept is not None:
      frames = np.concatenate([self._kept, frames], axis=1)
    self._kept = frames
    return self._results(frames.shape[1] - self._reach.after)

  def flush(self) -> np.ndarray:
    """Results of the rest; the clip ends here."""
    return self._nothing if self._kept is None else self._results(self._kept.shape[1])

  def _results(self, until: int) -> np.ndarray:
    if self._kept is None or until <= self._done:
      return self._nothing
    frames = self._kept
    ends = np.full(len(frames), frames.shape[1])
    windows = plan_windows(frames.shape[1], self._reach, self._done, until)
    results = _results(self._run, frames, ends, windows, self._nothing)
    passed = max(0, until - self._reach.before)
    self._kept, self._done = frames[:, passed:], until - passed
    return results


class Window(NamedTuple):
  """`size` frames from frame `start` of a clip; the results of some of them are kept."""

  start: int
  size: int
  keep_from: int
  keep_to: int


def plan_windows(frames: int, reach: Reach, done: int, until: int) -> Iterator[Window]:
  """Windows that give the results of the frames `done` to `until` of a clip of `frames`.

  What is kept of a window has all of its reach in it. A window may go beyond the clip's end.
  """
  while done < until:
    start = max(0, done - reach.before)
    left = frames - start
    stop = until if left <= _LARGEST else min(until, start + _LARGEST - reach.after)
    size = _LARGEST if left > _LARGEST else -(-left // _STEP) * _STEP
    yield Window(start, size, done - start, stop - start)
    done = stop


def _in_windows(
  run: Run, frames: np.ndarray, ends: np.ndarray, reach: Reach, nothing: np.ndarray
) -> np.ndarray:
  count = frames.shape[1]
  return _results(run, frames, ends, plan_windows(count, reach, 0, count), nothing)


def _results(
  run: Run, frames: np.ndarray, ends: np.ndarray, windows: Iterator[Window], nothing: np.ndarray
) -> np.ndarray:
  pieces = [nothing]
  for window in windows:
    piece = frames[:, window.start : window.start + window.size]
    missing = window.size - piece.shape[1]
    piece = np.pad(piece, ((0, 0), (0, missing), (0, 0)))
    ends_here = np.clip(ends - window.start, 0, window.size).astype(np.int32)
    result = np.asarray(run(piece, ends_here))
    pieces.append(result[:, window.keep_from : window.keep_to])
  return np.concatenate(pieces, axis=1)
