"""Attention weights as pictures, held to what the model's layers do with them."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from helpers_lm import CONFIG, SPECS, random_clip, random_params

from audiolm_jax.lm import stages
from audiolm_jax.lm.attention_maps import attention_maps
from audiolm_jax.lm.stage import Stage
from audiolm_jax.lm.transformer import Transformer, stack_layers

SPEC = SPECS["coarse"]


def example():
  features = stages.stage_features(SPEC, *random_clip(SPEC, 2.0))
  return features["decoder_input_tokens"][:30], features["decoder_frame_ids"][:30]


@pytest.mark.parametrize(
  "changes",
  [{}, {"num_kv_heads": 2, "num_frame_embeddings": 21}, {"positions": "rotary", "num_kv_heads": 1}],
  ids=["t5", "grouped, frames", "rotary"],
)
def test_values_summed_by_the_maps_are_what_each_layer_adds(changes):
  config = dataclasses.replace(CONFIG, **changes)
  params = random_params(config, SPEC)
  tokens, frame_ids = example()
  maps = attention_maps(Stage(SPEC, config, params), tokens, frame_ids)

  def handed_out(module: nn.Module, method: str) -> bool:
    return method == "__call__" and module.name in ("value", "output")

  model = Transformer(config, SPEC.layout.vocab_size)
  _, kept = model.apply(
    {"params": params}, tokens[None], frame_ids[None], capture_intermediates=handed_out
  )
  for layer in range(config.num_layers):
    attention = kept["intermediates"][f"layers_{layer}"]["attention"]
    value = np.repeat(attention["value"]["__call__"][0][0], 4 // config.kv_heads, axis=1)  # pyright: ignore[reportArgumentType, reportCallIssue]: Flax declares a union
    summed = np.einsum("hqk,khd->qhd", maps[layer], value)
    kernel = params[f"layers_{layer}"]["attention"]["output"]["kernel"]
    added = jnp.einsum("qhd,hde->qe", summed, kernel)
    np.testing.assert_allclose(added, attention["output"]["__call__"][0][0], atol=1e-5)  # pyright: ignore[reportArgumentType, reportCallIssue]: Flax declares a union


def test_a_position_takes_all_from_the_past_and_nothing_from_the_future():
  tokens, frame_ids = example()
  maps = attention_maps(Stage(SPEC, CONFIG, random_params(CONFIG, SPEC)), tokens, frame_ids)
  assert maps.shape == (2, 4, 30, 30)
  np.testing.assert_allclose(maps.sum(axis=-1), 1.0, atol=1e-5)
  assert (np.triu(maps, 1) == 0).all()
  assert maps[..., 29, :].std() > 0.01  # not the same for every key


def test_stacked_layers_give_the_same_maps():
  tokens, frame_ids = example()
  params = random_params(CONFIG, SPEC)
  scanned = dataclasses.replace(CONFIG, scan_layers=True)
  stacked = attention_maps(Stage(SPEC, scanned, stack_layers(params)), tokens, frame_ids)
  plain = attention_maps(Stage(SPEC, CONFIG, params), tokens, frame_ids)
  np.testing.assert_array_equal(stacked, plain)
