"""A small conditioned stage for the tests of lm/, sampling/, bundles/ and training/."""

import flax.linen as nn
import jax
import numpy as np

from audiolm_jax.lm import text
from audiolm_jax.lm.conditioned import ConditionedConfig, text_stage
from audiolm_jax.lm.config import Positions, TransformerConfig

CLUSTERS = 16
SPEC = text_stage(num_clusters=CLUSTERS, longest_seconds=4.0, longest_source=24)
CONFIG = ConditionedConfig(
  TransformerConfig(
    num_layers=1, dim=16, num_heads=2, mlp_dim=32, positions=Positions.ROTARY,
    dropout_rate=0.0,
  ),
  encoder_layers=2,
  label_smoothing=0.0,
)  # fmt: skip


def conditioned_batch(*pairs: tuple[str, list[int]], spec=SPEC):
  """Returns a batch of texts, their semantic tokens and those of a source, the same reversed."""
  made = [
    spec.example({"source.text": text.code_points(words), "semantic": semantic, **source})
    for words, tokens in pairs
    for semantic in [np.array(tokens, np.int32)]
    for source in [{"source.semantic": semantic[::-1]}]
  ]
  return {name: np.stack([example[name] for example in made]) for name in made[0]}


PAIRS = (("on", [1, 2, 3]), ("it is five", [4, 4, 4, 5, 6, 6, 15]))


def conditioned_params(config=CONFIG, spec=SPEC, seed=0, scale=1.5):
  """Returns parameters large enough that every part matters."""
  batch = conditioned_batch(*PAIRS)
  init = jax.jit(lambda key: spec.init(config, key, batch))
  params = nn.meta.unbox(init(jax.random.key(seed)))
  tables = {"embedding", "source_embedding", "head"}
  return {
    name: jax.tree.map(lambda x, k=20.0 if name in tables else scale: k * np.asarray(x), tree)
    for name, tree in params.items()
  }
