"""A kind of stage for tests: codes from semantic tokens, level by level, masked and bidirectional.

Source: MaskGIT (arXiv 2202.04200), applied to levels as in SoundStorm (arXiv 2305.09636).
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from audiolm_jax.core import modules
from audiolm_jax.core.errors import DataError
from audiolm_jax.core.streams import Stream
from audiolm_jax.lm.stage import Feature, StageSpec
from audiolm_jax.sampling.logits import draw
from audiolm_jax.sampling.windowed import WindowedTargets

ROUNDS = 3  # of each level


@dataclasses.dataclass(frozen=True)
class MaskedConfig:
  dim: int = 16


@dataclasses.dataclass(frozen=True)
class MaskedSpec(StageSpec):
  num_clusters: int = 16
  semantic_rate: float = 25.0
  codebook_size: int = 16
  frame_rate: float = 50.0
  num_quantizers: int = 4
  crop_seconds: float = 0.4
  kind: str = dataclasses.field(default="masked", kw_only=True)

  weight_feature = "weights"

  @property
  def reads(self):
    return (Stream("semantic", self.num_clusters, self.semantic_rate),)

  @property
  def writes(self):
    return Stream("codes", self.codebook_size, self.frame_rate, self.num_quantizers)

  @property
  def crop_length(self):
    return self.crop_seconds

  @property
  def frames(self):
    return self.writes.steps(self.crop_seconds)

  def features(self):
    return {
      "semantic": Feature((self.frames,)),
      "codes": Feature((self.frames, self.num_quantizers)),
      "weights": Feature((self.frames,), np.float32),
    }

  def example(self, record):
    (semantic,) = self.reads
    semantic, codes = (s.of(record, f"the {self.name} stage") for s in (semantic, self.writes))
    if len(codes) > self.frames:
      raise DataError(f"a crop is too long for the {self.name} stage")
    space = (0, self.frames - len(codes))
    return {
      "semantic": self.by_frame(semantic, len(codes)),
      "codes": np.pad(codes, (space, (0, 0))).astype(np.int32),
      "weights": np.pad(np.ones(len(codes), np.float32), space),
    }

  def by_frame(self, semantic, frames):
    """Each frame's semantic token, from 1 on; 0 beyond the end."""
    places = (np.arange(frames) * self.semantic_rate / self.frame_rate).astype(int)
    tokens = np.asarray(semantic)[np.minimum(places, len(semantic) - 1)] + 1
    return np.pad(tokens, (0, self.frames - frames)).astype(np.int32)

  @classmethod
  def config_class(cls):
    return MaskedConfig

  def model(self, config):
    return Painter(config.dim, self.num_clusters + 1, self.codebook_size, self.num_quantizers)

  def init(self, config, key, batch):
    semantic, codes = (jnp.zeros(batch[n].shape, jnp.int32) for n in ("semantic", "codes"))
    return self.model(config).init(key, semantic, codes)["params"]

  def loss(self, config, params, batch, *, key=None, z_loss=0.0):
    """One level of each row is predicted where it is masked; those above it are masked whole."""
    codes, weights = batch["codes"], batch["weights"]
    which, where = jax.random.split(jax.random.key(0) if key is None else key)
    level = jax.random.randint(which, codes.shape[:1], 0, self.num_quantizers)[:, None]
    hidden = jax.random.uniform(where, codes.shape[:2]) < 0.6
    levels = jnp.arange(self.num_quantizers)
    masked = (levels > level[..., None]) | ((levels == level[..., None]) & hidden[..., None])
    logits = modules.apply(
      self.model(config), params, batch["semantic"], jnp.where(masked, self.codebook_size, codes)
    )
    nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), codes[..., None], axis=-1)[..., 0]
    scored = weights[..., None] * (masked & (levels == level[..., None]))
    loss = (scored * nats).sum() / jnp.maximum(scored.sum(), 1e-6)
    return loss, {"loss": loss, "weight": weights.sum()}


class Painter(nn.Module):
  dim: int
  num_clusters: int
  codebook_size: int
  num_quantizers: int

  @nn.compact
  def __call__(self, semantic, codes):
    there = semantic > 0
    places = self.param("places", nn.initializers.normal(1.0), (128, self.dim))
    x = nn.Embed(self.num_clusters, self.dim)(semantic) + places[: semantic.shape[1]]
    for level in range(self.num_quantizers):
      x = x + nn.Embed(self.codebook_size + 1, self.dim, name=f"codes_{level}")(codes[..., level])
    x = x + nn.MultiHeadDotProductAttention(2)(x, mask=nn.make_attention_mask(there, there))
    logits = nn.Dense(self.num_quantizers * self.codebook_size)(nn.gelu(nn.Dense(self.dim)(x)))
    return logits.reshape(*codes.shape, self.codebook_size)


class MaskedSampler:
  def __init__(self, stage):
    self.spec, self.stage = stage.spec, stage

  def targets(self, call, reads, prompts, semantic_rate):
    del semantic_rate
    return PaintedWindows(self.stage, call, reads, prompts)

  def rehearsed(self):
    return None


class PaintedWindows(WindowedTargets):
  spec: MaskedSpec

  def __init__(self, stage, call, reads, prompts):
    super().__init__(stage.spec, call, reads, prompts)
    self._stage = stage

  def draw(self, windows, sources, index):
    painted = {}
    keys = self.call.keys(self.spec.name, index, [(self.call.samples[row],) for row in windows])
    for key, (row, window) in zip(keys, windows.items(), strict=True):
      semantic = sources["semantic"][row]
      codes = self._paint(key, semantic, self.rows[row][window.start : window.known], window)
      painted[row] = codes[window.known - window.start : window.end - window.start]
    yield painted

  def _paint(self, key, semantic, known, window):
    """All frames of a window; in each round of a level the surest half of the rest is kept."""
    spec, mask = self.spec, self.spec.codebook_size
    frames = window.end - window.start
    codes = np.full((spec.frames, spec.num_quantizers), mask, np.int32)
    codes[: len(known)] = known
    by_frame = spec.by_frame(semantic, frames)
    controls = self.call.options(spec.name).controls
    for level in range(spec.num_quantizers):
      for step in range(ROUNDS):
        masked = np.flatnonzero(codes[:frames, level] == mask)
        logits = _logits(spec, self._stage.config, self._stage.params, by_frame, codes)[:, level]
        folded = jax.random.fold_in(key, level * ROUNDS + step)
        drawn = np.asarray(draw(logits, jax.random.split(folded, spec.frames), controls))
        sure = np.asarray(jnp.take_along_axis(logits, drawn[:, None], axis=1))[masked, 0]
        count = len(masked) if step == ROUNDS - 1 else -(-len(masked) // 2)
        kept = masked[np.argsort(-sure, kind="stable")[:count]]
        codes[kept, level] = drawn[kept]
    return codes


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits(spec, config, params, semantic, codes):
  return jax.nn.log_softmax(
    spec.model(config).apply({"params": params}, semantic[None], codes[None])[0]
  )
