"""A small parallel stage for the tests of lm/, sampling/ and training/."""

import flax.linen as nn
import jax
import numpy as np

from audiolm_jax.lm.config import Positions, TransformerConfig
from audiolm_jax.lm.parallel import FillingConfig, ParallelConfig, parallel_stage

LEVELS, SIZE, LATENT, CROP = 3, 16, 4, 12
SPEC = parallel_stage(
  num_quantizers=LEVELS, codebook_size=SIZE, num_clusters=8, crop_seconds=CROP / 50
)
LAYERS = TransformerConfig(
  num_layers=1, dim=16, num_heads=2, mlp_dim=32, positions=Positions.ROTARY, dropout_rate=0.0
)
CONFIG = ParallelConfig(
  LAYERS, kernel_size=3, latent_dim=LATENT, filling=FillingConfig(passes=(4, 2))
)
BOOKS = np.random.default_rng(5).normal(size=(LEVELS, SIZE, LATENT)).astype(np.float32)
BOOKS *= np.array([4.0, 2.0, 1.0], np.float32)[:, None, None]


def parallel_batch(*lengths: int):
  """Returns a batch of clips of the given numbers of frames."""
  rng = np.random.default_rng(0)
  made = [
    SPEC.example(
      {
        "semantic": rng.integers(0, 8, -(-length // 2)),
        "codes": rng.integers(0, SIZE, (length, LEVELS)),
      }
    )
    for length in lengths
  ]
  return {name: np.stack([example[name] for example in made]) for name in made[0]}


def parallel_params(config: ParallelConfig = CONFIG):
  """Returns parameters large enough that every part matters, with the codebooks BOOKS."""
  batch = parallel_batch(CROP)
  params = nn.meta.unbox(jax.jit(lambda key: SPEC.init(config, key, batch))(jax.random.key(0)))
  params = {
    name: jax.tree.map(
      lambda x, name=name: (1.0 if name == "log_beta" else 1.5) * np.asarray(x), tree
    )
    for name, tree in params.items()
  }
  rng = np.random.default_rng(1)
  taps = params["layers_0"]["taps"]
  params["layers_0"]["taps"] = rng.normal(size=taps.shape).astype(np.float32)
  return params | ({"codebooks": BOOKS} if SPEC.uses_codebooks(config) else {})
