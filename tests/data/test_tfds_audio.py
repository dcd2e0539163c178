"""TFDS data sets of audio, shown with two that are made here."""

import dataclasses
import itertools

import numpy as np
import pytest

seqio = pytest.importorskip("seqio")
tfds = pytest.importorskip("tensorflow_datasets")

from audiolm_jax import bundles  # noqa: E402
from audiolm_jax.core.errors import DataError  # noqa: E402
from audiolm_jax.data import registration, token_store, tokenization  # noqa: E402
from audiolm_jax.data.tfds_audio import TfdsAudioDataSource  # noqa: E402
from tests.data.conftest import tone  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
  # tensorflow-datasets 4.9 with protobuf 6, whenever it restores what it knows of a data set.
  "ignore:.*label\\(\\) is deprecated:DeprecationWarning",
)

COUNTS = {"train_clean100": 3, "train_other500": 2, "dev_clean": 1, "test_clean": 2}


def _samples(split, i, rate=16_000):
  return np.round(32767 * tone(0.5 + 0.1 * i, len(split) + i)).astype(np.int64)


class MiniatureSpeech(tfds.core.GeneratorBasedBuilder):
  """Laid out like LibriSpeech in TFDS."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = {
      "speech": tfds.features.Audio(sample_rate=16_000),
      "speaker_id": np.int64,
      "id": np.str_,
    }
    return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in COUNTS}

  def _generate_examples(self, split):
    for i in range(COUNTS[split]):
      yield i, {"speech": _samples(split, i), "speaker_id": 10 + i, "id": f"utterance{i}"}


class MiniatureVoice(tfds.core.GeneratorBasedBuilder):
  """One split, 22,050 Hz, no names."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = tfds.features.FeaturesDict({"speech": tfds.features.Audio(sample_rate=22_050)})
    return self.dataset_info_from_configs(features=features)

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for i in range(6):
      yield i, {"speech": np.full(22_050, 1000 * i + 1000, np.int64)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  for builder in (MiniatureSpeech, MiniatureVoice):
    builder(data_dir=str(folder)).download_and_prepare()
  seqio.set_tfds_data_dir_override(str(folder))
  yield folder
  seqio.set_tfds_data_dir_override(None)


def _examples(source, split, **settings):
  return list(source.get_dataset(split, shuffle=False, **settings).as_numpy_iterator())


def test_splits_are_joined_and_clips_have_their_names_speakers_and_samples(data_dir):
  source = TfdsAudioDataSource("tfds:miniature_speech")
  assert set(source.splits) == {"train", "valid", "test"}
  assert [source.num_clips(split) for split in ("train", "valid", "test")] == [5, 1, 2]
  found = {e["id"].decode(): e for e in _examples(source, "train")}  # pyright: ignore[reportAttributeAccessIssue]: TensorFlow gives bytes
  assert len(found) == 5
  for split in ("train_clean100", "train_other500"):
    for i in range(COUNTS[split]):
      example = found[f"miniature_speech/{split}/utterance{i}"]
      assert example["speaker"].decode() == str(10 + i)  # pyright: ignore[reportAttributeAccessIssue]: TensorFlow gives bytes
      expected = (_samples(split, i) / 32768).astype(np.float32)
      np.testing.assert_array_equal(example["waveform"], expected)


def test_shards_together_are_the_split_and_the_same_each_time(data_dir):
  source = TfdsAudioDataSource("tfds:miniature_speech")
  whole = [e["id"] for e in _examples(source, "train")]
  for count in (2, 3, 7):
    parts = [
      [e["id"] for e in _examples(source, "train", shard_info=seqio.ShardInfo(i, count))]
      for i in range(count)
    ]
    assert list(itertools.chain(*parts)) == whole


def test_one_split_is_held_out_from_and_other_rates_are_resampled(data_dir):
  source = TfdsAudioDataSource("tfds:miniature_voice", valid_fraction=0.3)
  assert (source.num_clips("train"), source.num_clips("valid")) == (4, 2)
  ids = [e["id"] for split in ("train", "valid") for e in _examples(source, split)]
  assert len(set(ids)) == 6
  waveform = _examples(source, "valid")[0]["waveform"]
  assert waveform.shape == (16_000,) and waveform.dtype == np.float32
  level = waveform[4000:12_000]
  np.testing.assert_allclose(level, level[0], atol=1e-4)
  assert round(float(level[0]) * 32768) in range(1000, 6001, 1000)


def test_unknown_and_unprepared_data_sets_are_refused_in_words(data_dir, tmp_path):
  with pytest.raises(DataError, match="TFDS has no data set 'no_such_set'"):
    TfdsAudioDataSource("tfds:no_such_set")
  with pytest.raises(DataError, match=r"not prepared in .*; run: tfds build ljspeech"):
    TfdsAudioDataSource("tfds:ljspeech", data_dir=str(tmp_path))


def test_a_data_set_is_tokenized_by_its_task(data_dir, miniature_bundle, tmp_path, monkeypatch):
  beam_tokenization = pytest.importorskip("audiolm_jax.data.beam_tokenization")
  bundle = bundles.save_bundle(miniature_bundle, tmp_path / "bundle")
  registration.register_audio_tasks("minispeech", "tfds:miniature_speech", miniature_bundle)
  job = beam_tokenization.TokenizationJob(
    str(bundle), str(tmp_path / "store"), task="minispeech_waveform", module="json"
  )
  done = beam_tokenization.tokenize_corpus(job, "DirectRunner")
  again = dataclasses.replace(job, clips_per_shard=2)
  with pytest.raises(DataError, match=r"is not a part of minispeech_waveform: its clips or --cli"):
    beam_tokenization.tokenize_corpus(again, "DirectRunner")
  assert done.info.clips == {"train": 5, "valid": 1, "test": 2} and done.info.speakers == 3
  stored = {c.id: c for c in token_store.TokenStore(tmp_path / "store").clips()}
  task = seqio.TaskRegistry.get("minispeech_tokens")
  for example in task.get_dataset(None, split="train", shuffle=False).as_numpy_iterator():
    np.testing.assert_array_equal(stored[example["id"].decode()].streams["codes"], example["codes"])
    np.testing.assert_array_equal(
      stored[example["id"].decode()].streams["semantic"], example["semantic"]
    )
  with pytest.raises(DataError, match="read through SeqIO only"):
    tokenization.tokenize_corpus(miniature_bundle, "tfds:miniature_speech", tmp_path / "s")
