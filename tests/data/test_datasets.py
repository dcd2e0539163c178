"""The declared shapes of the batches of a dataset equal those of its batches."""

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.data import datasets, token_shards, token_store
from audiolm_jax.lm import stages
from tests.conftest import melody

SPEC = stages.coarse_stage(
  crop_seconds=1.0, num_clusters=16, codebook_size=16, num_target_quantizers=2
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """A folder of sounds and a token store."""
  folder = tmp_path_factory.mktemp("corpus")
  (folder / "sounds" / "train").mkdir(parents=True)
  writer = token_store.TokenStoreWriter(folder / "tokens", "hash")
  rng = np.random.default_rng(0)
  for i in range(3):
    soundfile.write(folder / "sounds" / "train" / f"{i}.wav", melody(2.0, seed=i), 16_000)
    clip = token_shards.TokenClip(
      id=str(i),
      streams={
        "semantic": rng.integers(0, 16, 50).astype(np.int32),
        "codes": rng.integers(0, 16, (100, 2)).astype(np.int32),
      },
      split="train",
      seconds=2.0,
    )
    writer.add(clip)
  writer.finish()
  return folder


@pytest.mark.parametrize("kind", ["sounds in memory", "tokens in memory", "SeqIO task of sounds"])
def test_batches_have_the_declared_shapes(kind, corpus):
  if kind == "tokens in memory":
    dataset = datasets.InMemoryTokens(str(corpus / "tokens"), SPEC, batch_size=2)
  elif kind == "sounds in memory":
    dataset = datasets.InMemoryAudio(str(corpus / "sounds"), crop_seconds=0.7, batch_size=2)
  else:
    from tasks import audio_folder

    task = audio_folder.register(str(corpus / "sounds"))
    dataset = datasets.SeqioDataset(task, {"waveform": 11_200}, batch_size=2)
  batch = next(dataset())
  declared = dataset.batch_shapes()
  assert {name: (x.shape, x.dtype) for name, x in declared.items()} == {
    name: (np.shape(x), np.asarray(x).dtype) for name, x in batch.items()
  }


@pytest.mark.parametrize(
  ("lengths", "spec"),
  [(None, None), ({}, None), ({"codes": 4}, None), ({}, SPEC), ({"waveform": 4}, SPEC)],
)
def test_a_task_has_either_the_length_of_waveforms_or_a_stage(lengths, spec):
  with pytest.raises(ConfigError, match="TASK_FEATURE_LENGTHS is"):
    datasets.SeqioDataset("task", lengths, spec)
