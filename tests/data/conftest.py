"""A small corpus of sine tones and noise, and a token store of random tokens."""

import json

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.streams import of_tokenizers
from audiolm_jax.data import token_shards, token_store

RATE = 16_000


def tone(seconds: float, seed: int) -> np.ndarray:
  """A tone with noise, unlike that of any other seed."""
  rng = np.random.default_rng(seed)
  time = np.arange(round(seconds * RATE)) / RATE
  wave = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 400) * time)
  return (wave + 0.05 * rng.standard_normal(len(time))).astype(np.float32)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
  """Manifest of 7 clips of 0.3 s to 2.1 s: five `train`, two `valid`, two speakers.

  In no frame are two codes of `miniature_bundle` as near as rounding: where they are, clips that go
  side by side and clips that go alone may get one each.
  """
  folder = tmp_path_factory.mktemp("corpus")
  rows = []
  for i in range(7):
    name = f"clips/{i}.{'flac' if i % 2 else 'wav'}"
    (folder / "clips").mkdir(exist_ok=True)
    soundfile.write(folder / name, tone(0.3 * (i + 1), 10 + i), RATE)
    split = "valid" if i in (2, 5) else "train"
    rows.append({"path": name, "speaker": f"s{i % 2}", "split": split, "seconds": 0.3 * (i + 1)})
  manifest = folder / "manifest.jsonl"
  manifest.write_text("\n".join(json.dumps(row) for row in rows))
  return manifest


@pytest.fixture(scope="session")
def random_clip():
  """Makes clip number i: i + 1 seconds at 25 Hz (10 clusters) and 50 Hz (3 levels of 8 codes)."""

  def make(i: int) -> token_shards.TokenClip:
    rng = np.random.default_rng(i)
    steps = 25 * (i + 1)
    return token_shards.TokenClip(
      id=f"clip{i}",
      streams={
        "semantic": rng.integers(0, 10, steps),
        "codes": rng.integers(0, 8, (2 * steps - i % 2, 3)),
      },
      split="valid" if i == 5 else "train",
      speaker=f"s{i % 2}",
      seconds=i + 1.0,
    )

  return make


@pytest.fixture(scope="session")
def open_writer():
  """Opens a store for writing, 4 clips to a shard."""

  def open_it(folder, token_hash="hash-a"):
    codec = {"sample_rate": RATE, "hop_length": 320, "num_quantizers": 3, "codebook_size": 8}
    semantic = {"sample_rate": RATE, "hop_length": 640, "num_clusters": 10}
    return token_store.TokenStoreWriter(
      folder, token_hash, streams=of_tokenizers(codec, semantic).values(), clips_per_shard=4
    )

  return open_it


@pytest.fixture(scope="session")
def stored_tokens(tmp_path_factory, open_writer, random_clip):
  """A finished store of clips 0 to 5, the last of them `valid`."""
  folder = tmp_path_factory.mktemp("tokens")
  writer = open_writer(folder)
  for i in range(6):
    writer.add(random_clip(i))
  writer.finish()
  return folder
