"""PyTorch implementations that the project is compared with.

A decoder-only transformer of the same shape as our stage, with a static cache in eager PyTorch, and
audiolm-pytorch (MIT), the other complete open AudioLM. The dependencies fairseq, encodec and
pytorch-warmup of the latter need not be installed, because the measured code does not use them.
"""

import importlib.machinery
import math
import sys
import time
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

_CODES = 1024


class _Layer(nn.Module):
  """Pre-norm attention with a static cache, and a plain feed-forward layer."""

  def __init__(self, dim: int, heads: int, mlp_dim: int, capacity: int, batch: int, dtype):
    super().__init__()
    self.heads = heads
    self.attention_norm = nn.RMSNorm(dim, dtype=dtype)
    self.mlp_norm = nn.RMSNorm(dim, dtype=dtype)
    self.query_key_value = nn.Linear(dim, 3 * dim, bias=False, dtype=dtype)
    self.out = nn.Linear(dim, dim, bias=False, dtype=dtype)
    self.up = nn.Linear(dim, mlp_dim, bias=False, dtype=dtype)
    self.down = nn.Linear(mlp_dim, dim, bias=False, dtype=dtype)
    shape = (batch, heads, capacity, dim // heads)
    self.register_buffer("keys", torch.zeros(shape, dtype=dtype))
    self.register_buffer("values", torch.zeros(shape, dtype=dtype))

  def forward(self, x: torch.Tensor, bias: torch.Tensor, position: int) -> torch.Tensor:
    batch, _, dim = x.shape
    parts = self.query_key_value(self.attention_norm(x)).view(batch, 1, 3, self.heads, -1)
    query, key, value = parts.permute(2, 0, 3, 1, 4)
    self.keys[:, :, position] = key[:, :, 0]
    self.values[:, :, position] = value[:, :, 0]
    attended = nn.functional.scaled_dot_product_attention(query, self.keys, self.values, bias)
    x = x + self.out(attended.transpose(1, 2).reshape(batch, 1, dim))
    return x + self.down(torch.relu(self.up(self.mlp_norm(x))))


class StaticCacheStage(nn.Module):
  """Decodes one token at a time, with attention over the whole cache."""

  def __init__(self, layers: int, dim: int, heads: int, mlp_dim: int, capacity: int, dtype):
    super().__init__()
    self.capacity = capacity
    self.embedding = nn.Embedding(_CODES, dim, dtype=dtype)
    self.layers = nn.ModuleList(
      _Layer(dim, heads, mlp_dim, capacity, 1, dtype) for _ in range(layers)
    )
    self.norm = nn.RMSNorm(dim, dtype=dtype)
    self.logits = nn.Linear(dim, _CODES, bias=False, dtype=dtype)
    self.register_buffer("distance_bias", torch.randn(heads, capacity).to(dtype))

  @torch.inference_mode()
  def seconds_per_token(self, position: int, count: int) -> float:
    """Returns the mean time of `count` steps from `position` on."""
    token = torch.zeros((1, 1), dtype=torch.long)
    began = time.perf_counter()
    for step in range(position, position + count):
      bias = torch.full((1, self.distance_bias.shape[0], 1, self.capacity), -math.inf)
      bias = bias.to(self.distance_bias.dtype)
      bias[0, :, 0, : step + 1] = self.distance_bias[:, : step + 1].flip(1)
      x = self.embedding(token)
      for layer in self.layers:
        x = layer(x, bias, step)
      probabilities = torch.softmax(self.logits(self.norm(x))[:, 0].float() / 0.8, dim=-1)
      token = torch.multinomial(probabilities, 1)
    return (time.perf_counter() - began) / count


def audiolm_pytorch() -> Any:
  """Imports the main module of the package."""
  for name in ("fairseq", "encodec", "encodec.utils", "pytorch_warmup"):
    if name not in sys.modules:
      module: Any = types.ModuleType(name)
      module.__spec__ = importlib.machinery.ModuleSpec(name, None)
      module.EncodecModel = module._linear_overlap_add = None
      sys.modules[name] = module
  import audiolm_pytorch.audiolm_pytorch as package

  # It requests the size of a text encoder from a model hub, even without text.
  package.get_encoded_dim = lambda name: 768
  return package


def coarse_transformer(dim: int, depth: int, heads: int) -> nn.Module:
  """Returns the coarse stage of audiolm-pytorch, with 1024 clusters and four levels."""
  return audiolm_pytorch().CoarseTransformer(
    codebook_size=_CODES,
    num_coarse_quantizers=4,
    num_semantic_tokens=1024,
    dim=dim,
    depth=depth,
    heads=heads,
  )


@torch.inference_mode()
def decode_curve(model: Any, semantic: int, positions: Sequence[int]) -> list[dict[str, float]]:
  """Returns milliseconds per token with its cache, by position; medians of five."""
  model.eval()
  semantic_ids = torch.randint(0, 1024, (1, semantic))
  found = []
  for position in positions:
    codes = torch.randint(0, _CODES, (1, position + 6))
    settings = {"semantic_token_ids": semantic_ids, "cond_scale": 1, "return_kv_cache": True}
    _, (keys, embeddings) = model.forward_with_cond_scale(
      coarse_token_ids=codes[:, :position], **settings
    )
    times = []
    for step in range(1, 7):
      began = time.perf_counter()
      _, (keys, embeddings) = model.forward_with_cond_scale(
        coarse_token_ids=codes[:, : position + step],
        kv_cache=keys,
        embed_cache=embeddings,
        **settings,
      )
      times.append(time.perf_counter() - began)
    found.append({"position": position + semantic, "ms": 1e3 * float(np.median(times[1:]))})
  return found


class StageTraining:
  """Training steps with AdamW on random tokens."""

  def __init__(self, model: Any, batch: int, semantic: int, coarse: int):
    self.model = model.train()
    self._optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    self._semantic = torch.randint(0, 1024, (batch, semantic))
    self._codes = torch.randint(0, _CODES, (batch, coarse))

  def step(self) -> float:
    """Runs one update and returns the loss."""
    _, logits = self.model(
      semantic_token_ids=self._semantic,
      coarse_token_ids=self._codes[:, :-1],
      cond_drop_prob=0.0,
    )
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), self._codes.flatten())
    self._optimizer.zero_grad()
    loss.backward()
    self._optimizer.step()
    return loss.item()


def soundstream(channels: int, latent_dim: int, num_quantizers: int) -> Any:
  """Returns the codec of audiolm-pytorch at strides 2, 4, 5, 8, without attention layers."""
  audiolm_pytorch()
  from audiolm_pytorch.soundstream import SoundStream

  return SoundStream(
    channels=channels,
    codebook_dim=latent_dim,
    codebook_size=_CODES,
    rq_num_quantizers=num_quantizers,
    use_local_attn=False,
  )


class CodecTraining:
  """Training steps of its generator and its discriminators, each with Adam."""

  def __init__(self, codec: Any, waveform: np.ndarray):
    self._codec = codec.train()
    self._waveform = torch.from_numpy(waveform)
    self._generator = torch.optim.Adam(codec.non_discr_parameters(), lr=1e-4)
    discriminators = [codec.stft_discriminator, *codec.discriminators]
    self._discriminator_optimizer = torch.optim.Adam(
      [p for d in discriminators for p in d.parameters()], lr=1e-4
    )

  def step(self) -> float:
    """Updates both and returns the loss of the generator."""
    loss = self._codec(self._waveform)
    self._generator.zero_grad()
    loss.backward()
    self._generator.step()
    discriminator_loss = self._codec(self._waveform, return_discr_loss=True)
    self._discriminator_optimizer.zero_grad()
    discriminator_loss.backward()
    self._discriminator_optimizer.step()
    return loss.item()
