"""A kind of stage for tests: text to semantic tokens and an end token, encoder and decoder."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from audiolm_jax.core import modules
from audiolm_jax.core.errors import DataError
from audiolm_jax.core.streams import Role, Stream
from audiolm_jax.lm.stage import Feature, StageSpec
from audiolm_jax.sampling.logits import draw, only
from audiolm_jax.sampling.processors import Context, apply
from audiolm_jax.sampling.pull import Targets
from audiolm_jax.sampling.windows import steps_until

PIECE = 4  # tokens between two pauses


@dataclasses.dataclass(frozen=True)
class TextConfig:
  dim: int = 16


@dataclasses.dataclass(frozen=True)
class TextSpec(StageSpec):
  num_characters: int = 8
  num_clusters: int = 16
  semantic_rate: float = 25.0
  max_characters: int = 6
  max_steps: int = 60
  kind: str = dataclasses.field(default="text_to_semantic", kw_only=True)

  @property
  def reads(self):
    return (Stream("text", self.num_characters, role=Role.SOURCE),)

  @property
  def writes(self):
    return Stream("semantic", self.num_clusters, self.semantic_rate)

  @property
  def end_token(self):
    return self.num_clusters

  def features(self):
    row = Feature((self.max_steps + 1,))
    return {
      "text": Feature((self.max_characters,)),
      "decoder_input_tokens": row,
      "decoder_target_tokens": row,
      "decoder_loss_weights": Feature(row.shape, np.float32),
    }

  def example(self, record):
    (text,) = self.reads
    text, semantic = (s.of(record, f"the {self.name} stage") for s in (text, self.writes))
    if len(text) > self.max_characters or len(semantic) > self.max_steps:
      raise DataError(f"a clip is too long for the {self.name} stage")
    targets = np.append(semantic, self.end_token).astype(np.int32)
    space = (0, self.max_steps + 1 - len(targets))
    begin = self.end_token + 1
    return {
      "text": self.padded(text),
      "decoder_input_tokens": np.pad(np.append(begin, targets[:-1]).astype(np.int32), space),
      "decoder_target_tokens": np.pad(targets, space),
      "decoder_loss_weights": np.pad(np.ones(len(targets), np.float32), space),
    }

  def padded(self, text):
    """Ids from 1 on, 0 beyond the end."""
    return np.pad(np.asarray(text) + 1, (0, self.max_characters - len(text))).astype(np.int32)

  @classmethod
  def config_class(cls):
    return TextConfig

  def model(self, config):
    return EncoderDecoder(config.dim, self.num_characters + 1, self.num_clusters + 2)

  def init(self, config, key, batch):
    text, tokens = (jnp.zeros(batch[n].shape, jnp.int32) for n in ("text", "decoder_input_tokens"))
    return self.model(config).init(key, text, tokens)["params"]

  def loss(self, config, params, batch, *, key=None, z_loss=0.0):
    logits = modules.apply(self.model(config), params, batch["text"], batch["decoder_input_tokens"])
    nats = -jnp.take_along_axis(
      jax.nn.log_softmax(logits),
      batch["decoder_target_tokens"][..., None],
      axis=-1,
    )[..., 0]
    weights = batch["decoder_loss_weights"]
    loss = (weights * nats).sum() / jnp.maximum(weights.sum(), 1e-6)
    return loss, {"loss": loss, "weight": weights.sum()}


class EncoderDecoder(nn.Module):
  dim: int
  num_characters: int
  num_tokens: int

  @nn.compact
  def __call__(self, text, tokens):
    there = text > 0
    places = self.param("places", nn.initializers.normal(1.0), (128, self.dim))
    x = nn.Embed(self.num_characters, self.dim)(text) + places[: text.shape[1]]
    attention = functools.partial(nn.MultiHeadDotProductAttention, num_heads=2)
    x = x + attention(name="encoder")(x, mask=nn.make_attention_mask(there, there))
    y = nn.Embed(self.num_tokens, self.dim)(tokens) + places[: tokens.shape[1]]
    y = y + attention(name="decoder")(y, mask=nn.make_causal_mask(tokens))
    mask = nn.make_attention_mask(jnp.ones_like(tokens), there)
    y = y + attention(name="cross")(y, x, mask=mask)
    return nn.Dense(self.num_tokens)(y)


class TextSampler:
  def __init__(self, stage):
    self.spec, self.stage = stage.spec, stage

  def targets(self, call, reads, prompts, semantic_rate):
    del semantic_rate
    return UntilEnd(self.stage, call, reads, prompts)

  def rehearsed(self):
    return None


class UntilEnd(Targets):
  """Tokens one by one, until the end token or the time that is asked for."""

  spec: TextSpec

  may_end = True

  def __init__(self, stage, call, reads, prompts):
    super().__init__(stage.spec, call, reads, prompts)
    self.may_end = True
    self._stage = stage
    self._ended = [False] * len(prompts)
    self._keys = call.keys(self.spec.name, 0, [(sample,) for sample in call.samples])

  def extend(self, until, index=0):
    wanted = {
      row: steps_until(min(seconds, 1e6), self.stream.rate)  # pyright: ignore[reportArgumentType]: it is not None
      for row, seconds in until.items()
    }
    drawn = 0
    while short := [r for r in until if not self._ended[r] and len(self.rows[r]) < wanted[r]]:
      for row in short:
        self._draw(row)
      drawn += 1
      if drawn == PIECE:
        break
    return drawn > 0

  def end(self, row):
    ends = [super().end(row), len(self.rows[row]) / self.stream.rate if self._ended[row] else None]  # pyright: ignore[reportOperatorIssue]: it is not None
    return min((end for end in ends if end is not None), default=None)

  def _draw(self, row):
    spec, step = self.spec, len(self.rows[row])
    options = self.call.options(spec.name)
    text = spec.padded(self.reads["source.text"].rows[row])
    tokens = np.zeros(spec.max_steps + 1, np.int32)
    tokens[: step + 1] = [spec.end_token + 1, *self.rows[row]]
    logits = _logits(spec, self._stage.config, self._stage.params, text[None], tokens[None], step)
    if options.processors:
      history = max(p.history for p in options.processors)
      codes = np.full((1, history + 1, 1), -1)
      known = self.rows[row][max(0, step - history) :]
      codes[0, history - len(known) : history, 0] = known
      arrays = [p.arrays() for p in options.processors]
      logits = apply(options.processors, arrays, logits, Context(np.array([step]), 0, codes))  # pyright: ignore[reportArgumentType]: NumPy arrays serve
    key = jax.random.fold_in(self._keys[row], step)
    (drawn,) = np.asarray(draw(logits, key[None], options.controls))
    self._ended[row] = drawn == spec.end_token
    if not self._ended[row]:
      self.rows[row] = np.append(self.rows[row], drawn).astype(np.int32)
      self._ended[row] = len(self.rows[row]) == spec.max_steps


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits(spec, config, params, text, tokens, step):
  """Of clusters and the end token, not of the begin token; an end at once is not legal."""
  logits = spec.model(config).apply({"params": params}, text, tokens)[:, step]
  ids = jnp.arange(logits.shape[-1])
  return only(logits, (ids < spec.end_token) | ((ids == spec.end_token) & (step > 0)))
