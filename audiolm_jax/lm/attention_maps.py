"""Attention weights of a stage, for inspection.

Training and sampling do not store attention weights. This module captures the queries, keys and
biases of a forward pass and computes the weights from these values.
"""

import dataclasses
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from audiolm_jax.core import modules
from audiolm_jax.lm.attention import bias_block, rotate
from audiolm_jax.lm.config import Positions
from audiolm_jax.lm.stage import Stage
from audiolm_jax.lm.stages import AutoregressiveSpec
from audiolm_jax.lm.transformer import Transformer, unstack_layers


def attention_maps(
  stage: Stage,
  tokens: Int[np.ndarray, "length"],
  frame_ids: Int[np.ndarray, "length"],
) -> Float[np.ndarray, "layers heads length length"]:
  """Returns the attention weights between the positions of a sequence.

  Args:
    stage: a trained autoregressive stage.
    tokens: input tokens of the stage: `decoder_input_tokens` of `stages.stage_features`, which
      begin with the begin token.
    frame_ids: the frame id of the target at each position: `decoder_frame_ids` of
      `stages.stage_features`.

  Returns:
    Weights by layer, head, query and key in float32. The weights of each query sum to 1 and are 0
    for later keys.
  """
  config = dataclasses.replace(stage.config, scan_layers=False)
  model = cast(AutoregressiveSpec, stage.spec).model(config)

  def is_captured(module: nn.Module, method: str) -> bool:
    return method == "__call__" and module.name in ("query", "key", "relative_bias")

  _, kept = modules.apply(
    model,
    unstack_layers(stage.params),
    jnp.asarray(tokens)[None],
    jnp.asarray(frame_ids)[None],
    method=Transformer.hidden,
    capture_intermediates=is_captured,
  )
  found = kept["intermediates"]
  length = len(tokens)
  bias = jnp.zeros((1, 1, length), jnp.float32)
  if config.positions is Positions.T5_RELATIVE:
    bias = found["relative_bias"]["__call__"][0]
  biases = bias_block(bias, 0, length)[0]
  positions = jnp.arange(length)[None]
  maps = []
  for layer in range(config.num_layers):
    attention = found[f"layers_{layer}"]["attention"]
    query, key = (attention[name]["__call__"][0] for name in ("query", "key"))
    if config.positions is Positions.ROTARY:
      query, key = (rotate(x, positions, config.rotary_base) for x in (query, key))
    key = jnp.repeat(key, config.num_heads // config.kv_heads, axis=2)
    scores = jnp.einsum("qhd,khd->hqk", query[0], key[0], preferred_element_type=jnp.float32)
    maps.append(jax.nn.softmax(scores * config.head_size**-0.5 + biases, axis=-1))
  return np.asarray(jnp.stack(maps))
