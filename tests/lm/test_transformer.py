"""The transformer's shape, causality and options."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers_lm import CONFIG, SPECS, random_params

from audiolm_jax.core import configs, modules
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.layers import Remat
from audiolm_jax.lm import stages
from audiolm_jax.lm.config import FeedForward, Positions, TransformerConfig
from audiolm_jax.lm.transformer import Transformer, stack_layers, unstack_layers

VARIANTS = {
  "paper": {},
  "rotary": {"positions": Positions.ROTARY},
  "gated": {"feed_forward": FeedForward.GATED_GELU},
  "grouped": {"num_kv_heads": 2},
  "frames": {"num_frame_embeddings": 30},
  "head_dim": {"head_dim": 6},
}


def variant(name: str) -> TransformerConfig:
  return dataclasses.replace(CONFIG, **VARIANTS[name])


def count(config: TransformerConfig, vocab_size: int) -> int:
  tokens = jnp.zeros((1, 8), jnp.int32)
  model = Transformer(config, vocab_size)
  shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens, tokens)["params"])
  return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
  ("name", "parameters"),
  [("semantic", 153_126_400), ("coarse", 161_515_008), ("fine", 176_195_072)],
)
def test_the_papers_shape_has_the_stated_parameters(name, parameters):
  vocab_size = stages.paper_stages()[name].layout.vocab_size
  assert count(TransformerConfig(), vocab_size) == parameters
  # Without embedding and output layer: the layers, the position table, the final norm.
  body = parameters - 2 * 1024 * vocab_size
  assert body == 151_019_520 + 32 * 16 + 1024 == 151_021_056


def inputs(length=9, rows=2):
  spec = SPECS["coarse"]
  tokens = jax.random.randint(jax.random.key(5), (rows, length), 0, spec.layout.vocab_size)
  frame_ids = jnp.broadcast_to(jnp.arange(length), tokens.shape)
  return spec, tokens, frame_ids


@pytest.mark.parametrize("name", VARIANTS)
def test_a_logit_depends_on_the_past_only(name):
  config = variant(name)
  spec, tokens, frame_ids = inputs()
  model, params = Transformer(config, spec.layout.vocab_size), random_params(config, spec)
  apply = jax.jit(model.apply)
  before = apply({"params": params}, tokens, frame_ids)
  after = apply({"params": params}, tokens.at[:, 5].add(1), frame_ids)
  np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-5)
  assert (np.abs(before[:, 5:] - after[:, 5:]).max(-1) > 1e-3).all()


@pytest.mark.parametrize("name", ["paper", "rotary"])
def test_order_of_the_past_matters(name):
  config = variant(name)
  spec, tokens, frame_ids = inputs()
  model, params = Transformer(config, spec.layout.vocab_size), random_params(config, spec)
  swapped = tokens.at[:, 1].set(tokens[:, 2]).at[:, 2].set(tokens[:, 1])
  apply = jax.jit(model.apply)
  before = apply({"params": params}, tokens, frame_ids)[:, -1]
  after = apply({"params": params}, swapped, frame_ids)[:, -1]
  assert np.abs(before - after).max() > 1e-3


def assert_close(actual, expected):
  """Within 1e-4 of each array's own scale."""
  scale = max(1.0, np.abs(expected).max())
  np.testing.assert_allclose(actual / scale, expected / scale, atol=1e-4)


def value_and_grads(config: TransformerConfig, params):
  spec, tokens, frame_ids = inputs()
  model = Transformer(config, spec.layout.vocab_size)
  return jax.jit(
    jax.value_and_grad(lambda p: jnp.sin(modules.apply(model, p, tokens, frame_ids)).sum())
  )(params)


@pytest.mark.parametrize("name", VARIANTS)
def test_scanned_layers_are_the_unscanned_ones(name):
  config = variant(name)
  params = random_params(config, SPECS["coarse"])
  expected = value_and_grads(config, params)
  scanned = dataclasses.replace(config, scan_layers=True)
  value, grads = value_and_grads(scanned, stack_layers(params))
  jax.tree.map(assert_close, (value, unstack_layers(grads)), expected)


@pytest.mark.parametrize("remat", [Remat.MINIMAL, Remat.FULL])
@pytest.mark.parametrize("scan_layers", [False, True])
def test_rematerialised_layers_have_the_same_gradients(remat, scan_layers):
  config = dataclasses.replace(CONFIG, scan_layers=scan_layers)
  params = random_params(CONFIG, SPECS["coarse"])
  params = stack_layers(params) if scan_layers else params
  expected = value_and_grads(config, params)
  actual = value_and_grads(dataclasses.replace(config, remat=remat), params)
  jax.tree.map(assert_close, actual, expected)


@pytest.mark.parametrize("remat", Remat)
def test_scanned_parameters_are_the_unscanned_ones_stacked(remat):
  spec, tokens, _ = inputs()
  vocab_size = spec.layout.vocab_size
  scanned = dataclasses.replace(CONFIG, scan_layers=True, remat=remat)
  shapes = [
    jax.eval_shape(
      lambda c=c: nn.meta.unbox(
        Transformer(c, vocab_size).init(jax.random.key(0), tokens)["params"]
      )
    )
    for c in (CONFIG, scanned)
  ]
  assert set(shapes[1]) == {"embedding", "head", "final_norm", "relative_bias", "layers"}
  stacked = jax.eval_shape(stack_layers, shapes[0])
  assert jax.tree.map(lambda a: a.shape, stacked) == jax.tree.map(lambda a: a.shape, shapes[1])


def test_unstacking_inverts_stacking_beyond_ten_layers():
  params = {"head": jnp.ones(1), **{f"layers_{i}": {"a": jnp.full(2, i)} for i in range(12)}}
  again = unstack_layers(stack_layers(params))
  assert {n: again[n]["a"][0].item() for n in again if n != "head"} == {
    f"layers_{i}": i for i in range(12)
  }


@pytest.mark.parametrize("scan_layers", [False, True])
def test_every_parameter_has_logical_axes(scan_layers):
  config = dataclasses.replace(variant("frames"), scan_layers=scan_layers)
  model = Transformer(config, 50)
  tokens = jnp.zeros((1, 4), jnp.int32)
  boxed = jax.eval_shape(lambda: model.init(jax.random.key(0), tokens, tokens)["params"])
  known = {"embed", "mlp", "heads", "kv", "vocab", "relpos_buckets", "layers", "length"}
  specs = jax.tree.leaves(
    nn.get_partition_spec(boxed), is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)
  )
  shapes = jax.tree.leaves(nn.meta.unbox(boxed))
  for spec, leaf in zip(specs, shapes, strict=True):
    assert len(spec) == len(leaf.shape)
    assert set(spec) <= known


@pytest.mark.parametrize("name", ["paper", "rotary", "grouped"])
def test_bfloat16_stays_near_float32(name):
  spec, tokens, frame_ids = inputs()
  config = variant(name)
  params = random_params(config, spec)
  full = Transformer(config, spec.layout.vocab_size)
  half = Transformer(dataclasses.replace(config, dtype="bfloat16"), spec.layout.vocab_size)
  expected = jax.jit(full.apply)({"params": params}, tokens, frame_ids)
  actual = jax.jit(half.apply)({"params": params}, tokens, frame_ids)
  assert actual.dtype == jnp.float32
  error = jnp.linalg.norm(actual - expected) / jnp.linalg.norm(expected)
  assert 0 < error < 0.05


def test_dropout_needs_its_switch_and_changes_the_output():
  spec, tokens, _ = inputs()
  params = random_params(CONFIG, spec)
  model = Transformer(CONFIG, spec.layout.vocab_size, deterministic=False)
  apply = jax.jit(lambda key: modules.apply(model, params, tokens, rngs={"dropout": key}))
  outputs = [apply(jax.random.key(i)) for i in range(2)]
  assert np.abs(outputs[0] - outputs[1]).max() > 1e-3


def test_config_survives_json():
  config = variant("rotary")
  assert configs.from_dict(TransformerConfig, configs.to_dict(config)) == config


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"positions": "alibi"}, "'alibi' is not one of t5_relative, rotary"),
    ({"dim": 10, "num_heads": 4}, "dim 10 is not a multiple of num_heads 4"),
    ({"num_kv_heads": 3}, "num_heads 16 is not a multiple of num_kv_heads 3"),
    ({"positions": "rotary", "head_dim": 5}, "even head_dim"),
    ({"num_buckets": 1}, "num_buckets is 1; T5 positions need at least 2"),
    (
      {"max_distance": 16},
      "max_distance is 16; T5 positions with num_buckets 32 need more than 16",
    ),
  ],
)
def test_impossible_configs_are_refused(values, message):
  with pytest.raises(ConfigError, match=message):
    TransformerConfig(**values)


def test_rotary_positions_need_no_buckets():
  assert TransformerConfig(positions="rotary", num_buckets=1, max_distance=0).num_buckets == 1


def test_missing_frame_ids_are_named():
  config = variant("frames")
  spec, tokens, _ = inputs()
  model = Transformer(config, spec.layout.vocab_size)
  with pytest.raises(ConfigError, match="needs frame_ids"):
    model.apply({"params": random_params(config, spec)}, tokens)
