"""Small stages and models for the tests of lm/ and sampling/."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from audiolm_jax.lm import stages
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.lm.transformer import Transformer

SMALL: dict[str, Any] = dict(
  num_clusters=11, codebook_size=9, semantic_rate=5.0, frame_rate=10.0, collapse_repeats=True
)
SPECS = {
  "semantic": stages.semantic_stage(crop_seconds=4.0, **SMALL),
  "coarse": stages.coarse_stage(**SMALL | {"crop_seconds": 2.0, "num_target_quantizers": 2}),
  "fine": stages.fine_stage(
    **SMALL | {"crop_seconds": 1.0, "num_source_quantizers": 2, "num_target_quantizers": 3}
  ),
}
CONFIG = TransformerConfig(
  num_layers=2, dim=16, num_heads=4, mlp_dim=32, num_buckets=8, max_distance=16
)


def random_params(config: TransformerConfig, spec: stages.AutoregressiveSpec, seed: int = 0):
  """Parameters large enough that positions, frames and every layer matter."""
  model = Transformer(config, spec.layout.vocab_size)
  tokens = jnp.zeros((1, 4), jnp.int32)
  params = nn.meta.unbox(jax.jit(model.init)(jax.random.key(seed), tokens, tokens)["params"])
  scale = {"embedding": 30.0, "frame_embedding": 30.0, "head": 20.0}

  def grow(path, value):
    names = [entry.key for entry in path]
    if "relative_bias" in names:
      return value * 50
    return value * scale.get(names[0], 2.0 if names[-1] == "kernel" else 1.0)

  return jax.tree_util.tree_map_with_path(grow, params)


def random_clip(spec: stages.AutoregressiveSpec, seconds: float, seed: int = 0):
  """Semantic tokens and codes of a clip."""
  rng = np.random.default_rng(seed)
  semantic = rng.integers(0, spec.num_clusters, round(seconds * spec.semantic_rate))
  codes = rng.integers(0, spec.codebook_size, (round(seconds * spec.frame_rate), 5))
  return semantic.astype(np.int32), codes.astype(np.int32)


def random_batch(spec: stages.AutoregressiveSpec, rows: int = 3, shortest: float = 0.5):
  """A batch of features of clips of different lengths."""
  examples = []
  for row in range(rows):
    share = shortest + (1 - shortest) * row / max(rows - 1, 1)
    seconds = round(share * spec.crop_seconds * spec.semantic_rate) / spec.semantic_rate
    examples.append(stages.stage_features(spec, *random_clip(spec, seconds, seed=row)))
  return {name: np.stack([e[name] for e in examples]) for name in examples[0]}
