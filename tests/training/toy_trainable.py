"""A two-layer regression that uses all features of the trainer, and its data."""

import dataclasses
import os
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from audiolm_jax.core import modules, products
from audiolm_jax.trainables import registry
from audiolm_jax.training import train_state, trainer
from audiolm_jax.training.metrics import Audio
from audiolm_jax.training.optimizers import OptimizerConfig, make_optimizer
from audiolm_jax.training.partitioning import PartitioningConfig
from audiolm_jax.training.trainable import Trainable


@dataclasses.dataclass(frozen=True)
class ToyConfig:
  embed: int = 16
  mlp: int = 32
  noise: float = 0.1
  ema_decay: float = 0.9
  optimizer: OptimizerConfig = OptimizerConfig(
    learning_rate=0.01, schedule="rsqrt", warmup_steps=4, weight_decay=0.01, clip_norm=1.0
  )


class TwoLayers(nn.Module):
  mlp: int

  @nn.compact
  def __call__(self, x):
    init = nn.initializers.lecun_normal()
    x = nn.with_logical_constraint(x, ("batch", "embed"))
    into = nn.with_logical_partitioning(init, ("embed", "mlp"))
    rounding: dict[str, Any] = {"dot_general": products.dot_general}
    x = jnp.tanh(nn.Dense(self.mlp, kernel_init=into, name="wi", **rounding)(x))
    x = nn.with_logical_constraint(x, ("batch", "mlp"))
    out = nn.with_logical_partitioning(init, ("mlp", "embed"))
    return nn.Dense(1, kernel_init=out, name="wo", **rounding)(x)


class ToyTrainable(Trainable):
  component = "toy"

  def __init__(self, config: ToyConfig = ToyConfig()):
    self.config = config
    self.module = TwoLayers(config.mlp)
    self.optimizer = make_optimizer(config.optimizer)

  def init(self, rng, batch):
    params = self.module.init(rng, jnp.zeros(batch["x"].shape))["params"]
    return train_state.new_train_state(params, self.optimizer, ema_decay=self.config.ema_decay)

  def _loss(self, params, batch, noise):
    x = batch["x"] + noise
    return jnp.mean((modules.apply(self.module, params, x)[:, 0] - batch["y"]) ** 2)

  def train_step(self, state, batch, rng):
    noise = self.config.noise * jax.random.normal(rng, batch["x"].shape)
    loss, grads = jax.value_and_grad(self._loss)(state.params, batch, noise)
    decay = self.config.ema_decay
    new = train_state.apply_gradients(state, grads, self.optimizer, ema_decay=decay)
    norm = optax.tree.norm(grads)
    new, skipped = train_state.apply_if_finite(state, new, loss, norm)
    return new, {"loss": loss, "gradient_norm": norm, "skipped": skipped}

  def eval_step(self, state, batch):
    return {"loss": self._loss(state.ema_params, batch, 0.0), "weight": len(batch["x"])}

  def summaries(self, state, batch):
    return {"tone": Audio(jnp.sin(jnp.arange(16000) / 10.0)[None] * 0.5)}

  def warnings(self, metrics):
    return ["the loss is high"] if metrics["loss"] > 1e6 else []

  def inference_params(self, state):
    return state.ema_params


class ToyData:
  """Batches that depend only on their position; those at the positions `bad` contain NaN."""

  def __init__(self, batch_size=8, bad=(), end=None, on_batch=None, embed=16):
    self.position, self.end, self.on_batch = 0, end, on_batch
    self.batch_size, self.bad, self.embed = batch_size, set(bad), embed

  def __next__(self):
    if self.end is not None and self.position >= self.end:
      raise StopIteration
    if self.on_batch:
      self.on_batch(self.position)
    rng = np.random.default_rng(self.position)
    x = rng.normal(size=(self.batch_size, self.embed)).astype(np.float32)
    y = np.sin(x.sum(axis=1)).astype(np.float32)
    if self.position in self.bad:
      y[0] = np.nan
    self.position += 1
    return {"x": x, "y": y}

  def get_state(self):
    return {"position": self.position}

  def skip_report(self):
    return ""

  def set_state(self, state):
    self.position = state["position"]


registry.COMPONENTS["toy"] = (__name__, "ToyTrainable", "ToyConfig")


def run(model_dir, **settings):
  """Trains a few steps; fields of `TrainConfig` and keywords of `train` replace the defaults."""
  given: dict[str, Any] = (
    dict(
      total_steps=24,
      log_period=3,
      eval_period=0,
      checkpoint=trainer.CheckpointConfig(period=5),
      model=ToyTrainable(),
      train_dataset=ToyData,
    )
    | settings
  )
  fields = {field.name for field in dataclasses.fields(trainer.TrainConfig)}
  config = trainer.TrainConfig(model_dir, **{k: v for k, v in given.items() if k in fields})
  return trainer.train(config, **{k: v for k, v in given.items() if k not in fields})


def main() -> None:
  """Runs `toy_trainable.py DIR STEPS` on the devices and the mesh of TOY_MESH."""
  mesh = [int(n) for n in os.environ.get("TOY_MESH", "1x1x1").split("x")]
  run(sys.argv[1], total_steps=int(sys.argv[2]), partitioning=PartitioningConfig(*mesh))  # pyright: ignore[reportArgumentType]: three sizes


if __name__ == "__main__":
  main()
