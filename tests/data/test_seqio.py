"""SeqIO sources, tasks, caches and converters: everything here imports TensorFlow."""

import json
import shutil
import types
from typing import Any

import numpy as np
import pytest
import soundfile

seqio = pytest.importorskip("seqio")
import tensorflow as tf  # noqa: E402

from audiolm_jax.codec.interface import CodecSpec  # noqa: E402
from audiolm_jax.core.errors import DataError  # noqa: E402
from audiolm_jax.data import examples, manifest, registration, token_shards, token_store  # noqa: E402
from audiolm_jax.data.feature_converters import StageFeatureConverter  # noqa: E402
from audiolm_jax.data.in_memory import InMemoryTokenBatches, InMemoryWaveforms  # noqa: E402
from audiolm_jax.data.seqio_batches import SeqioBatches  # noqa: E402
from audiolm_jax.data.sources import AudioDataSource, TokenStoreDataSource  # noqa: E402
from audiolm_jax.lm import stages  # noqa: E402
from audiolm_jax.semantic.spec import SemanticSpec  # noqa: E402

RATE = 16_000
NUMBERS: dict[str, Any] = {"num_clusters": 10, "codebook_size": 8}
SPECS = {
  "semantic": stages.semantic_stage(crop_seconds=1.0, **NUMBERS),
  "coarse": stages.coarse_stage(num_target_quantizers=2, crop_seconds=0.6, **NUMBERS),
  "fine": stages.fine_stage(
    num_source_quantizers=2, num_target_quantizers=1, crop_seconds=0.4, **NUMBERS
  ),
}


class LoudnessCodec:
  """Three levels of how loud each frame is: tokens without a model."""

  spec = CodecSpec(RATE, 320, num_quantizers=3, codebook_size=8)

  def encode_long(self, waveform):
    return np.stack([_loudness(waveform, 320, 8, level) for level in (1, 5, 25)], axis=1)


class LoudnessTokenizer:
  """How loud each step is."""

  spec = SemanticSpec(RATE, 640, num_clusters=10)

  def tokenize_long(self, waveform):
    return _loudness(waveform, 640, 10, 3)

  def tokenize_clips(self, waveforms, batch_size):
    return [self.tokenize_long(waveform) for waveform in waveforms]


def _loudness(waveform, hop, size, factor):
  padded = np.pad(waveform, (0, -len(waveform) % hop)).reshape(-1, hop)
  return (np.sqrt(np.mean(padded**2, axis=1)) * 1000 * factor).astype(np.int32) % size


def tokenizers(token_hash="hash-a"):
  return types.SimpleNamespace(
    codec=LoudnessCodec(), semantic=LoudnessTokenizer(), token_hash=token_hash
  )


@pytest.fixture(scope="module")
def registered(corpus):
  registration.register_audio_tasks("small", corpus, tokenizers(), stage_specs=SPECS)  # pyright: ignore[reportArgumentType]: a double
  return "small"


def test_a_round_of_held_out_batches_ends_with_a_full_one(registered):
  for name, examples_of in (
    ("small_waveform", {"task_feature_lengths": {"waveform": 1600}}),
    ("small_coarse_stage", {"spec": SPECS["coarse"]}),
  ):
    batches = list(
      SeqioBatches(name, **examples_of, split="valid", batch_size=3, num_epochs=1, shuffle=False)  # pyright: ignore[reportArgumentType]: settings of several types
    )
    assert all(len(value) == 3 for batch in batches for value in batch.values())
  last = batches[-1]["decoder_loss_weights"]
  counted = sum(np.any(batch["decoder_loss_weights"], axis=1).sum() for batch in batches)
  assert not last[-1].any() and counted % 3


def test_what_is_left_out_is_reported_while_reading(tmp_path):
  for i in range(3):
    soundfile.write(tmp_path / f"clip{i}.wav", 0.1 * np.ones(8000, np.float32), RATE)
  (tmp_path / "broken.wav").write_bytes(b"RIFF")
  rows = [{"path": path.name, "split": "train"} for path in sorted(tmp_path.glob("*.wav"))]
  manifest_file = tmp_path / "clips.jsonl"
  manifest_file.write_text("\n".join(map(json.dumps, rows)))
  registration.register_audio_tasks("holes", manifest_file, max_skipped_fraction=0.3)
  batches = SeqioBatches("holes_waveform", {"waveform": 800}, batch_size=3, shuffle=False)
  assert batches.skip_report() == ""
  next(batches)
  assert batches.skip_report().startswith("1 of 4 clips skipped: broken.wav (")
  reader = InMemoryWaveforms(
    manifest_file, crop_seconds=0.05, batch_size=2, max_skipped_fraction=0.3
  )
  assert reader.skip_report() == batches.skip_report()


def _examples(dataset):
  return list(dataset.as_numpy_iterator())


def _task_examples(name, **settings):
  task = seqio.get_mixture_or_task(name)
  settings = {"sequence_length": None, "split": "train", "shuffle": False, "seed": 1} | settings
  return _examples(task.get_dataset(**settings))


def _assert_equal(first, second):
  assert first.keys() == second.keys()
  for name in first:
    np.testing.assert_array_equal(first[name], second[name])


def test_source_gives_every_clip_of_a_split_with_speaker_and_waveform(corpus):
  source = AudioDataSource(corpus)
  assert source.splits == ("train", "valid")
  found = _examples(source.get_dataset("train", shuffle=False))
  clips = manifest.clips_of_split(manifest.list_clips(corpus), "train")
  assert [e["id"].decode() for e in found] == [clip.id for clip in clips]  # pyright: ignore[reportAttributeAccessIssue]: TensorFlow gives bytes
  for example, clip in zip(found, clips, strict=True):
    assert example["speaker"].decode() == clip.speaker  # pyright: ignore[reportAttributeAccessIssue]: TensorFlow gives bytes
    np.testing.assert_array_equal(example["waveform"], manifest.read_clip(clip, RATE))


def test_shards_of_a_source_together_are_the_whole(corpus):
  source = AudioDataSource(corpus, max_shards=3)
  assert len(source.list_shards("train")) == 3
  ids = []
  for i in range(3):
    shard = source.get_dataset("train", shuffle=False, shard_info=seqio.ShardInfo(i, 3))
    ids += [e["id"] for e in _examples(shard)]
  assert sorted(ids) == sorted(e["id"] for e in _examples(source.get_dataset("train")))
  assert _examples(source.get_dataset("valid", shard_info=seqio.ShardInfo(7, 8))) == []


def test_any_rate_is_resampled(corpus):
  example = _examples(
    AudioDataSource(corpus, sample_rate=8000).get_dataset("valid", shuffle=False)
  )[0]
  assert len(example["waveform"]) == round(0.9 * 8000)


@pytest.mark.parametrize("fraction", [0.5, 0.01])
def test_unreadable_clips_are_counted_and_stop_past_the_share(corpus, tmp_path, fraction):
  rows = [json.loads(row) for row in corpus.read_text().splitlines()][:3]
  rows = [{"path": str(corpus.parent / row["path"]), "split": "train"} for row in rows]
  rows.append({"path": "gone.wav", "split": "train"})
  (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
  name = f"gone_{round(100 * fraction)}"
  registration.register_audio_tasks(name, tmp_path / "m.jsonl", max_skipped_fraction=fraction)
  batches = SeqioBatches(
    f"{name}_waveform", {"waveform": 1600}, batch_size=3, num_epochs=1, shuffle=False
  )
  if fraction == 0.5:
    assert [batch["waveform"].shape for batch in batches] == [(3, 1600)]
    skipped = seqio.get_mixture_or_task(f"{name}_waveform").source.skipped["train"]
    assert "1 of 4 clips skipped: gone.wav" in skipped.report()
  else:
    with pytest.raises(DataError, match=r"^1 of 4 clips skipped: gone.wav.*raise it"):
      list(batches)


def test_token_store_source_gives_the_stored_tokens(stored_tokens):
  found = _examples(
    TokenStoreDataSource(stored_tokens, "hash-a").get_dataset("train", shuffle=False)
  )
  for example, clip in zip(
    found, token_store.TokenStore(stored_tokens).clips("train"), strict=True
  ):
    np.testing.assert_array_equal(example["codes"], clip.streams["codes"])
    assert example["id"].decode() == clip.id and example["codes"].dtype == np.int32  # pyright: ignore[reportAttributeAccessIssue]: TensorFlow gives bytes
  with pytest.raises(DataError, match="other tokenizers"):
    TokenStoreDataSource(stored_tokens, "hash-b")


def test_tokens_task_holds_the_tokenizers_tokens_of_whole_clips(registered, corpus):
  for example in _task_examples("small_tokens"):
    clip = next(c for c in manifest.list_clips(corpus) if c.id == example["id"].decode())
    waveform = manifest.read_clip(clip, RATE)
    np.testing.assert_array_equal(example["codes"], LoudnessCodec().encode_long(waveform))
    np.testing.assert_array_equal(example["semantic"], LoudnessTokenizer().tokenize_long(waveform))


@pytest.mark.parametrize("kind", list(SPECS))
def test_in_memory_reader_and_seqio_give_the_same_features_for_the_same_seeds(
  kind, registered, corpus, tmp_path
):
  writer = token_store.TokenStoreWriter(tmp_path, "hash-a")
  for clip in manifest.list_clips(corpus):
    waveform = manifest.read_clip(clip, RATE)
    writer.add(
      token_shards.TokenClip(
        clip.id,
        {
          "semantic": LoudnessTokenizer().tokenize_long(waveform),
          "codes": LoudnessCodec().encode_long(waveform),
        },
        clip.split,
      )
    )
  writer.finish()
  spec = SPECS[kind]
  reader = InMemoryTokenBatches(tmp_path, spec, batch_size=1, token_hash="hash-a")
  task = seqio.get_mixture_or_task(f"small_{kind}_stage")
  dataset = task.get_dataset(None, split="train", shuffle=False, seed=1, num_epochs=3)
  lengths = StageFeatureConverter.lengths(spec)
  features = _examples(StageFeatureConverter(spec)(dataset, lengths))
  origins = _examples(dataset)
  assert len(features) == len(origins) >= 15
  for example, origin in zip(features, origins, strict=True):
    expected = reader.example(origin["id"].decode(), tuple(origin["seed"]))
    _assert_equal(example, expected)
    assert all(example[name].dtype == expected[name].dtype for name in expected)


def test_in_memory_reader_and_seqio_give_the_same_waveforms_for_the_same_seeds(registered, corpus):
  reader = InMemoryWaveforms(corpus, crop_seconds=0.5, batch_size=1)
  found = _task_examples("small_waveform", sequence_length={"waveform": 8000}, num_epochs=3)
  assert len(found) == 15
  for example in found:
    expected = reader.example(example["id"].decode(), tuple(example["seed"]))
    np.testing.assert_array_equal(example["waveform"], expected["waveform"][: expected["length"]])


def test_crops_of_one_clip_differ_from_epoch_to_epoch(registered):
  found = _task_examples("small_waveform", sequence_length={"waveform": 1600}, num_epochs=2)
  first, second = found[:5], found[5:]
  assert [e["id"] for e in first] == [e["id"] for e in second]
  assert all(np.any(a["waveform"] != b["waveform"]) for a, b in zip(first, second, strict=True))


def test_long_clips_are_cut_into_numbered_parts(corpus, monkeypatch):
  monkeypatch.setattr(registration, "SEGMENT_SECONDS", 1)
  registration.register_audio_tasks("cut", corpus)
  found = _task_examples("cut_waveform")
  ids = [e["id"].decode() for e in found]
  assert "clips/6.wav#0" in ids and "clips/6.wav#1" in ids and "clips/0.wav" in ids
  whole = manifest.read_clip(
    next(c for c in manifest.list_clips(corpus) if c.id == "clips/6.wav"), RATE
  )
  parts = [e["waveform"] for e in found if e["id"].decode().startswith("clips/6.wav")]
  np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("use_cached", [False, True])
def test_batches_resume_exactly(use_cached, cached):

  def batches():
    return SeqioBatches(
      "small_coarse_stage", spec=SPECS["coarse"], batch_size=2, use_cached=use_cached
    )

  whole = batches()
  expected = [next(whole) for _ in range(7)]
  first = batches()
  for _ in range(4):
    next(first)
  resumed = batches()
  resumed.set_state(json.loads(json.dumps(first.get_state())))
  for batch in expected[4:]:
    _assert_equal(next(resumed), batch)
  with pytest.raises(DataError, match="RANDOM_SEED 5"):
    resumed.set_state({"seed": 5, "batches": 0})
  with pytest.raises(DataError, match="position is of another corpus"):
    resumed.set_state(first.get_state() | {"corpus": 1})


def test_a_position_of_a_task_is_of_the_content_of_its_clips(tmp_path):
  found = []
  for name, level in (("a", 0.1), ("b", 0.2)):
    (tmp_path / name).mkdir()
    for clip in range(2):
      samples = np.full(1600, level)
      soundfile.write(tmp_path / name / f"{clip}.wav", samples, RATE)
    found.append(AudioDataSource(tmp_path / name).fingerprint("train"))
    copy = shutil.copytree(tmp_path / name, tmp_path / f"copy of {name}")
    assert AudioDataSource(copy).fingerprint("train") == found[-1]
  assert found[0].corpus == found[1].corpus
  with pytest.raises(DataError, match="its clips have other content"):
    found[1].check(found[0]._asdict())


def test_waveform_batches_have_the_agreed_features(registered):
  batch = next(SeqioBatches("small_waveform", {"waveform": 8000}, batch_size=4))
  assert batch["waveform"].shape == (4, 8000) and batch["waveform"].dtype == np.float32
  assert batch["length"].shape == (4,) and batch["length"].dtype == np.int32


def test_mixture_draws_from_all_its_parts(registered, stored_tokens):
  registration.register_audio_tasks("stored", stored_tokens, stage_specs=SPECS)
  names = registration.register_mixtures("both", {"small": 1.0, "stored": 1.0})
  assert names == [
    f"both_{kind}" for kind in ("coarse_stage", "fine_stage", "semantic_stage", "tokens")
  ]
  mixed = seqio.get_mixture_or_task("both_coarse_stage")
  dataset = mixed.get_dataset(None, split="train", seed=0, num_epochs=None).take(40)
  assert all(e["decoder_target_tokens"].any() for e in _examples(dataset))
  next(SeqioBatches("both_coarse_stage", spec=SPECS["coarse"], batch_size=8))


def test_registering_again_changes_nothing_and_other_arguments_replace(corpus, stored_tokens):
  first = registration.register_audio_tasks("twice", corpus)
  task = seqio.get_mixture_or_task("twice_waveform")
  assert registration.register_audio_tasks("twice", corpus) == first == ["twice_waveform"]
  assert seqio.get_mixture_or_task("twice_waveform") is task
  with pytest.raises(DataError, match="it has waveform; the stages need a bundle"):
    registration.task_name("twice", "coarse_stage")
  registration.register_audio_tasks("twice", stored_tokens, stage_specs=SPECS)
  assert "twice_waveform" not in seqio.TaskRegistry.names()
  assert registration.task_name("twice", "coarse_stage") in seqio.TaskRegistry.names()


def test_a_stage_with_other_numbers_than_its_tokens_is_refused(corpus, stored_tokens):
  with pytest.raises(DataError, match="vocabulary of 1024 in semantic, its tokens have 10"):
    registration.register_audio_tasks("wrong", stored_tokens, stage_specs=stages.paper_stages())
  coarse = {"coarse": stages.coarse_stage(num_target_quantizers=4, **NUMBERS)}
  with pytest.raises(DataError, match="4 levels of codes, its tokens have 3"):
    registration.register_audio_tasks("wrong", corpus, tokenizers(), stage_specs=coarse)  # pyright: ignore[reportArgumentType]: a double


def test_an_unknown_task_is_refused_in_words(registered):
  with pytest.raises(DataError, match=r"registered are: .*small_waveform"):
    SeqioBatches("smal_waveform", {"waveform": 8000}, batch_size=1)


@pytest.fixture(scope="module")
def cached(registered, tmp_path_factory):
  """The tasks `small_tokens` and `small_waveform`, cached as `seqio_cache_tasks` does it."""
  pytest.importorskip("apache_beam")
  folder = tmp_path_factory.mktemp("cache")
  cache_tasks(["small_tokens", "small_waveform"], folder)
  before = list(seqio.utils.get_global_cache_dirs())
  seqio.set_global_cache_dirs([str(folder)])
  yield folder
  seqio.set_global_cache_dirs(before)


def cache_tasks(names, folder):
  import apache_beam as beam
  from absl import flags
  from seqio.scripts import cache_tasks_main

  flags.FLAGS.mark_as_parsed()
  flags.FLAGS.min_shards = 2
  with beam.Pipeline(runner="DirectRunner") as pipeline:
    cache_tasks_main.run_pipeline(pipeline, names, str(folder))


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("kind", ["tokens", "waveform"])
def test_cached_task_equals_uncached_task(kind, split, cached):
  both = []
  for use_cached in (True, False):
    found = _task_examples(f"small_{kind}", split=split, use_cached=use_cached)
    for example in found:
      example.pop("seed", None)  # handed out in the order of reading, which a cache changes
    both.append({example.pop("id"): example for example in found})
  assert both[0].keys() == both[1].keys() and len(both[0]) == (5 if split == "train" else 2)
  for name, example in both[0].items():
    _assert_equal(example, both[1][name])


def test_stages_read_the_cache_of_the_tokens_task(cached):
  task = seqio.get_mixture_or_task("small_coarse_stage")
  assert task.cache_dir == seqio.get_mixture_or_task("small_tokens").cache_dir
  reader = {e["id"]: e for e in _task_examples("small_tokens")}
  for example in _task_examples("small_coarse_stage", use_cached=True):
    origin = reader[example["id"]]
    record = {name: origin[name] for name in ("semantic", "codes")}
    seed = tuple(example["seed"])
    expected = examples.stage_example(SPECS["coarse"], record, seed)
    for name, value in expected.items():
      np.testing.assert_array_equal(example[name], value)


@pytest.fixture
def cache_dirs():
  """Sets where SeqIO looks for caches, for one test."""
  before = list(seqio.utils.get_global_cache_dirs())
  yield lambda folder: seqio.set_global_cache_dirs([str(folder)])
  seqio.set_global_cache_dirs(before)


def test_a_cache_of_other_tokenizers_is_refused_in_words(cached, corpus, tmp_path, cache_dirs):
  shutil.copytree(cached / "small_tokens", tmp_path / "other_tokens")
  cache_dirs(tmp_path)
  registration.register_audio_tasks("other", corpus, tokenizers("hash-b"), stage_specs=SPECS)  # pyright: ignore[reportArgumentType]: a double
  batches = SeqioBatches("other_coarse_stage", spec=SPECS["coarse"], batch_size=1, use_cached=True)
  with pytest.raises(
    DataError, match=r"cache of other_tokens .* \(hash-a\) .* \(hash-b\); .*--overwrite"
  ):
    next(batches)


def test_a_missing_cache_is_reported_with_the_fix(corpus, tmp_path, cache_dirs):
  cache_dirs(tmp_path)
  registration.register_audio_tasks("uncached", corpus, tokenizers(), stage_specs=SPECS)  # pyright: ignore[reportArgumentType]: a double
  with pytest.raises(DataError, match="run seqio_cache_tasks first"):
    SeqioBatches("uncached_fine_stage", spec=SPECS["fine"], batch_size=1, use_cached=True)


def test_tensorflow_leaves_the_accelerator_to_jax():
  assert tf.config.get_visible_devices("GPU") == []


def test_a_store_without_codes_needs_specs_of_its_stages(tmp_path):
  writer = token_store.TokenStoreWriter(tmp_path, "hash-a")
  writer.add(token_shards.TokenClip("a", {"semantic": np.arange(10, dtype=np.int32)}, "train"))
  writer.finish()
  with pytest.raises(DataError, match=r"have no codes.*set stage_specs"):
    registration.register_audio_tasks("mute", tmp_path)
  names = registration.register_audio_tasks(
    "mute", tmp_path, stage_specs={"semantic": SPECS["semantic"]}
  )
  assert names == ["mute_tokens", "mute_semantic_stage"]
