"""The miniature models in tests/golden/pretrained, and what their references make of a sound."""

import pathlib

import jax
import numpy as np
import pytest

from audiolm_jax.pretrained import dac, hubert, hubert_tokenizer
from audiolm_jax.pretrained.weights import read_published

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "pretrained"


def miniature_dac() -> dac.DacCodec:
  """Four levels of 16 entries, 400 frames per second."""
  published = read_published(GOLDEN / "dac")
  return dac.convert(published.config, published.weights)


def hubert_centroids() -> np.ndarray:
  """Twelve of the features that the reference makes of the miniature's second layer."""
  with np.load(GOLDEN / "hubert" / "expected.npz") as file:
    found = np.concatenate([file["layer_2_0"], file["layer_2_1"]])
  return found[:24:2]


def miniature_hubert() -> hubert_tokenizer.HubertTokenizer:
  """Layer 2 of three, 12 clusters, 50 tokens per second."""
  published = read_published(GOLDEN / "hubert")
  return hubert_tokenizer.convert(
    published.config, published.weights, layer=2, centroids=hubert_centroids()
  )


def layers_of(encoder, params, waveform, ends) -> dict[int, np.ndarray]:
  """What each block of a `HubertEncoder` makes of clips [batch, samples], by its number from 1."""

  def of_block(module, _):
    return isinstance(module, hubert.Block)

  @jax.jit
  def run(waveform, ends):
    return encoder.apply(params, waveform, ends, capture_intermediates=of_block)[1]

  blocks = run(waveform, np.asarray(ends))["intermediates"]
  return {i + 1: np.asarray(blocks[f"block_{i}"]["__call__"][0]) for i in range(len(blocks))}


def latents_of(codec: dac.DacCodec, clip: np.ndarray) -> np.ndarray:
  """The encoder's output [1, frames, latent] for a whole clip at once, whole frames."""
  apply = jax.jit(dac.Encoder(codec.config).apply)
  return np.asarray(apply({"params": codec.params["encoder"]}, clip[None], np.array([len(clip)])))


@pytest.fixture(scope="session")
def dac_codec():
  return miniature_dac()


@pytest.fixture(scope="session")
def dac_expected():
  with np.load(GOLDEN / "dac" / "expected.npz") as file:
    return dict(file)
