"""The miniature models in tests/golden/pretrained, and what their references make of a sound."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from audiolm_jax.codec.residual_codec import ResidualCodec
from audiolm_jax.pretrained import (
  dac,
  encodec,
  hubert,
  hubert_tokenizer,
  mimi,
  w2v_bert_2,
  w2v_bert_2_tokenizer,
)
from audiolm_jax.pretrained.lyra_layers import LyraConfig
from audiolm_jax.pretrained.weights import read_published

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "pretrained"


def miniature_dac() -> dac.DacCodec:
  """Four levels of 16 entries, 400 frames per second."""
  published = read_published(GOLDEN / "dac")
  return dac.convert(published.config, published.weights)


def miniature_encodec() -> ResidualCodec:
  """Four levels of 16 entries, 600 frames per second."""
  published = read_published(GOLDEN / "encodec")
  return encodec.convert(published.config, published.weights)


def miniature_mimi() -> mimi.MimiCodec:
  """One semantic and three acoustic levels of 16 entries, 600 frames per second."""
  published = read_published(GOLDEN / "mimi")
  return mimi.convert(published.config, published.weights)


def miniature_lyra() -> ResidualCodec:
  """Six levels of 16 entries, 400 frames per second, blocks of one and of two groups."""
  config = LyraConfig(
    channels=4, strides=(4, 5, 2), latent_dim=8, num_quantizers=6, codebook_size=16
  )
  rng = np.random.default_rng(0)

  def drawn(shape):
    if shape == (2,):
      return np.array([-2.0, 2.5], np.float32)  # limits
    fan_in = max(1, np.prod(shape[:-1]))
    return (rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)

  params = jax.tree.map(drawn, config.parameter_shapes(), is_leaf=lambda x: isinstance(x, tuple))
  sizes = (4 / 1.5 ** np.arange(6)).astype(np.float32)
  return ResidualCodec(config, params | {"codebooks": params["codebooks"] * sizes[:, None, None]})


def centroids_of(folder: str) -> np.ndarray:
  """Twelve of the features that the reference makes of a miniature's second layer."""
  with np.load(GOLDEN / folder / "expected.npz") as file:
    found = np.concatenate([file["layer_2_0"], file["layer_2_1"]])
  return found[:24:2]


def hubert_centroids() -> np.ndarray:
  """Those of the miniature HuBERT."""
  return centroids_of("hubert")


def miniature_hubert() -> hubert_tokenizer.HubertTokenizer:
  """Layer 2 of three, 12 clusters, 50 tokens per second."""
  published = read_published(GOLDEN / "hubert")
  return hubert_tokenizer.convert(
    published.config, published.weights, layer=2, centroids=hubert_centroids()
  )


def miniature_w2v_bert_2() -> w2v_bert_2_tokenizer.W2vBert2Tokenizer:
  """Layer 2 of three, 12 clusters, 50 tokens per second."""
  published = read_published(GOLDEN / "w2v_bert_2")
  return w2v_bert_2_tokenizer.convert(
    published.config, published.weights, layer=2, centroids=centroids_of("w2v_bert_2")
  )


def noise(samples: int, seed: int = 0) -> np.ndarray:
  """Uniform over the whole range."""
  return np.random.default_rng(seed).uniform(-1, 1, samples).astype(np.float32)


def windowed_like(tokenizer):
  """The same with windows of 64 steps, of which 32 are kept: one size for all lengths."""
  config = dataclasses.replace(tokenizer.config, window_steps=64, context_steps=16)
  return type(tokenizer)(config, tokenizer.params)


def layers_of(encoder, params, rows, ends) -> dict[int, np.ndarray]:
  """What each block of an encoder makes of clips side by side, by its number from 1.

  Args:
    rows: what a `HubertEncoder` or a `W2vBert2Encoder` reads.
    ends: how much of each row is the clip.
  """

  def of_block(module, _):
    return isinstance(module, hubert.HubertBlock | w2v_bert_2.W2vBert2Block)

  @jax.jit
  def run(params, rows, ends):  # weights that are not arguments would be compiled in
    return encoder.apply(params, rows, ends, capture_intermediates=of_block)[1]

  blocks = run(params, rows, np.asarray(ends))["intermediates"]
  return {i + 1: np.asarray(blocks[f"block_{i}"]["__call__"][0]) for i in range(len(blocks))}


def nearest(features: np.ndarray, centroids: np.ndarray) -> np.ndarray:
  """Index of the nearest centroid, in float64."""
  distance = np.square(features.astype(np.float64)[:, None] - centroids).sum(-1)
  return distance.argmin(-1)


def latents_of(codec: dac.DacCodec, clip: np.ndarray) -> np.ndarray:
  """The encoder's output [1, frames, latent] for a whole clip at once, whole frames."""
  apply = jax.jit(dac.DacEncoder(codec.config).apply)
  return np.asarray(apply({"params": codec.params["encoder"]}, clip[None], np.array([len(clip)])))


@pytest.fixture(scope="session")
def dac_codec():
  return miniature_dac()


@pytest.fixture(scope="session")
def dac_expected():
  with np.load(GOLDEN / "dac" / "expected.npz") as file:
    return dict(file)
