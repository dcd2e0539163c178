"""In-memory readers: exact positions, epochs, evaluation rounds."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.data import examples, manifest, token_shards, token_store
from audiolm_jax.data.frame_labels import FrameLabels
from audiolm_jax.data.in_memory import (
  EpochUnit,
  InMemoryFrameLabelBatches,
  InMemoryTokenBatches,
  InMemoryWaveforms,
)
from audiolm_jax.io import storage
from audiolm_jax.lm import stages

NUMBERS: dict[str, Any] = {"num_clusters": 10, "codebook_size": 8}
COARSE = stages.coarse_stage(num_target_quantizers=2, crop_seconds=1.0, **NUMBERS)


def _waveforms(corpus, **settings):
  defaults = {"crop_seconds": 0.5, "batch_size": 4, "seed": 3}
  return InMemoryWaveforms(corpus, **(defaults | settings))


def _assert_equal(first, second):
  assert first.keys() == second.keys()
  for name in first:
    np.testing.assert_array_equal(first[name], second[name])


def test_waveform_batches_have_the_agreed_shapes(corpus):
  batch = next(_waveforms(corpus))
  assert batch["waveform"].shape == (4, 8000) and batch["waveform"].dtype == np.float32
  assert batch["length"].shape == (4,) and batch["length"].dtype == np.int32
  for row, length in zip(batch["waveform"], batch["length"], strict=True):
    assert np.any(row[:length]) and not np.any(row[length:])


@pytest.mark.parametrize("kind", ["waveforms", "tokens"])
@pytest.mark.parametrize("num_epochs", [None, 3])
def test_resumed_batches_equal_uninterrupted_ones(kind, num_epochs, corpus, stored_tokens):
  def reader():
    if kind == "waveforms":
      return _waveforms(corpus, num_epochs=num_epochs)
    return InMemoryTokenBatches(stored_tokens, COARSE, batch_size=4, seed=1, num_epochs=num_epochs)

  whole = reader()
  expected = [next(whole) for _ in range(8)]
  first = reader()
  for _ in range(3):
    next(first)
  state = json.loads(json.dumps(first.get_state()))
  second = reader()
  second.set_state(state)
  for batch in expected[3:]:
    _assert_equal(next(second), batch)


def _drawn(reader, count):
  """The (clip, seed) pairs of the next examples."""
  drawn = []
  reader.example = lambda *pair: drawn.append(pair) or {"x": np.zeros(1)}
  for _ in range(count):
    next(reader)
  return drawn


def test_every_epoch_has_a_new_order_and_no_crop_seed_comes_twice(stored_tokens):
  def reader(seed):
    return InMemoryTokenBatches(stored_tokens, COARSE, batch_size=5, seed=seed)

  drawn = _drawn(reader(0), 9)  # three epochs of 15
  epochs = [[clip for clip, _ in drawn[i : i + 15]] for i in (0, 15, 30)]
  assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
  assert epochs[0] != epochs[1] != epochs[2]
  seeds = [seed for _, seed in drawn + _drawn(reader(1), 9)]
  assert len(set(seeds)) == 90


def test_an_epoch_of_clips_has_each_clip_once(stored_tokens):
  reader = InMemoryTokenBatches(stored_tokens, COARSE, batch_size=5, epoch_unit=EpochUnit.CLIP)
  assert len(reader.clip_ids) == 5
  assert sorted(clip for clip, _ in _drawn(reader, 1)) == reader.clip_ids


def test_an_epoch_of_crop_lengths_has_long_clips_more_often(stored_tokens):
  reader = InMemoryTokenBatches(stored_tokens, COARSE, batch_size=15)
  seen = [clip for clip, _ in _drawn(reader, 1)]
  assert {name: seen.count(name) for name in set(seen)} == {f"clip{i}": i + 1 for i in range(5)}
  assert {"epoch": 1, "index": 0, "items": 15}.items() <= reader.get_state().items()


def test_an_evaluation_round_holds_every_sample_once(corpus):
  reader = _waveforms(corpus, split="valid", num_epochs=1, batch_size=1)
  rows = [batch["waveform"][0, : batch["length"][0]] for batch in reader]
  assert len(rows) == reader.get_state()["items"]
  clips = manifest.clips_of_split(manifest.list_clips(corpus), "valid")
  joined = np.concatenate([manifest.read_clip(clip, 16_000) for clip in clips])
  np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.sort(joined))


def test_an_evaluation_round_counts_every_target_once(stored_tokens):
  spec = stages.coarse_stage(num_target_quantizers=3, crop_seconds=1.0, **NUMBERS)
  reader = InMemoryTokenBatches(stored_tokens, spec, batch_size=4, num_epochs=1)
  batches = list(reader)
  assert all(batch["decoder_loss_weights"].shape == (4, spec.max_length) for batch in batches)
  clips = token_store.TokenStore(stored_tokens).clips("train")
  whole_cells = sum(
    min(clip.streams["codes"].shape[0] // 2, len(clip.streams["semantic"])) * 2 * 3
    for clip in clips
  )
  # An odd last frame belongs to no whole cell; a window contains it only if it has room.
  total = sum(batch["decoder_loss_weights"].sum() for batch in batches)
  assert whole_cells <= total <= sum(clip.streams["codes"].size for clip in clips)


def test_evaluation_rounds_repeat_the_same_batches(corpus):
  reader = _waveforms(corpus, split="valid", num_epochs=2, batch_size=3)
  batches = list(reader)
  half = -(-reader.get_state()["items"] // 3)
  assert len(batches) == 2 * half
  for first, second in zip(batches[:half], batches[half:], strict=True):
    _assert_equal(first, second)


def test_example_is_the_pure_function_of_clip_and_seed(corpus, stored_tokens):
  waves = _waveforms(corpus)
  clip = next(c for c in manifest.list_clips(corpus) if c.id == "clips/6.wav")
  expected = examples.crop_waveform(manifest.read_clip(clip, 16_000), 8000, (5, 6))
  np.testing.assert_array_equal(waves.example(clip.id, (5, 6))["waveform"], expected.waveform)
  tokens = token_store.TokenStore(stored_tokens).clips("train")[4]
  _assert_equal(
    InMemoryTokenBatches(stored_tokens, COARSE, batch_size=1).example(tokens.id, (5, 6)),
    examples.stage_example(COARSE, tokens.streams, (5, 6)),
  )


def test_gain_jitter_changes_the_level_in_training_only(corpus):
  plain, jittered = _waveforms(corpus), _waveforms(corpus, gain_db=(-20.0, -10.0))
  ratio = np.max(next(jittered)["waveform"], 1) / np.max(next(plain)["waveform"], 1)
  assert np.all(ratio < 10 ** (-9.9 / 20)) and np.all(ratio > 10 ** (-20.1 / 20))
  fixed = _waveforms(corpus, num_epochs=1, gain_db=(-20.0, -10.0))
  _assert_equal(next(fixed), next(_waveforms(corpus, num_epochs=1)))


def test_position_of_another_corpus_is_refused(corpus, tmp_path):
  reader = _waveforms(corpus)
  with pytest.raises(DataError, match="resume with the same corpus"):
    reader.set_state(reader.get_state() | {"items": 99})
  # Another corpus of the same size.
  (tmp_path / "clips").mkdir()
  for clip in manifest.list_clips(corpus):
    (tmp_path / clip.id).write_bytes(Path(clip.path).read_bytes())
  rows = corpus.read_text().replace("clips/0.wav", "clips/zero.wav")
  (tmp_path / "clips/0.wav").rename(tmp_path / "clips/zero.wav")
  (tmp_path / corpus.name).write_text(rows)
  other = _waveforms(tmp_path / corpus.name)
  assert other.get_state()["items"] == reader.get_state()["items"]
  with pytest.raises(DataError, match="position is of another corpus"):
    other.set_state(reader.get_state())
  old = {k: v for k, v in reader.get_state().items() if k not in ("corpus", "content")}
  other.set_state(old)


def _copied(corpus, folder, change=None):
  """The manifest of a copy of the corpus, in which the samples of one clip may be other ones."""
  (folder / "clips").mkdir(parents=True)
  for clip in manifest.list_clips(corpus):
    (folder / clip.id).write_bytes(Path(clip.path).read_bytes())
  if change is not None:
    with (folder / change).open("r+b") as file:
      file.seek(-2, 2)
      file.write(b"\x01\x02")
  (folder / corpus.name).write_text(corpus.read_text())
  return folder / corpus.name


def test_a_position_is_of_the_sound_and_the_labels_and_not_of_the_names_alone(corpus, tmp_path):
  state = _waveforms(corpus).get_state()
  _waveforms(_copied(corpus, tmp_path / "copy")).set_state(state)
  other = _waveforms(_copied(corpus, tmp_path / "other", "clips/0.wav"))
  with pytest.raises(DataError, match="its clips have other content; resume with the same"):
    other.set_state(state)
  rows = [json.loads(line) | {"label": "real"} for line in corpus.read_text().splitlines()]
  readers = []
  for label in ("real", "synthetic"):
    rows[0]["label"] = label
    corpus.with_suffix(f".{label}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    labels = ("real", "synthetic")
    readers.append(_waveforms(corpus.with_suffix(f".{label}.jsonl"), labels=labels))
  with pytest.raises(DataError, match="other content"):
    readers[1].set_state(readers[0].get_state())


def test_a_position_is_of_the_labels_of_frames(corpus):
  clips = manifest.clips_of_split(manifest.list_clips(corpus), "train")
  numbers = {clip.id: np.zeros(200, np.uint16) for clip in clips}
  readers = []
  for label in (0, 1):
    numbers[clips[0].id] = np.full(200, label, np.uint16)
    labels = FrameLabels(dict(numbers), 2, 400, 16_000)
    readers.append(InMemoryFrameLabelBatches(corpus, labels, crop_seconds=0.5, batch_size=2))
  readers[0].set_state(readers[0].get_state())
  with pytest.raises(DataError, match="other content"):
    readers[1].set_state(readers[0].get_state())


def test_a_position_is_of_the_tokens_of_a_store(open_writer, random_clip, tmp_path):
  readers = []
  for token in (0, 1):
    writer = open_writer(tmp_path / str(token))
    clip = random_clip(0)
    clip.streams["codes"][3, 1] = token
    writer.add(clip)
    writer.finish()
    readers.append(InMemoryTokenBatches(tmp_path / str(token), COARSE, batch_size=2))
  readers[0].set_state(readers[0].get_state())
  with pytest.raises(DataError, match="other content"):
    readers[1].set_state(readers[0].get_state())


def test_tokens_of_other_tokenizers_are_refused(stored_tokens):
  with pytest.raises(DataError, match="other tokenizers"):
    InMemoryTokenBatches(stored_tokens, COARSE, batch_size=1, token_hash="hash-b")


@pytest.mark.parametrize("num_epochs", [None, 1])
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_make_the_rows_of_the_batches_that_one_would(
  stored_tokens, num_epochs, processes
):
  def reader(index, count):
    return InMemoryTokenBatches(
      stored_tokens, COARSE, batch_size=8, seed=1, num_epochs=num_epochs, shard=(index, count)
    )

  whole, parts = reader(0, 1), [reader(i, processes) for i in range(processes)]
  per_epoch = -(-whole.get_state()["items"] // 8)
  batches = per_epoch + (num_epochs is None)  # past an epoch's end where there is one
  for _ in range(batches):
    rows = [next(part) for part in parts]
    joined = {name: np.concatenate([r[name] for r in rows]) for name in rows[0]}
    _assert_equal(joined, next(whole))
  assert all(part.get_state() == whole.get_state() for part in parts)


def test_long_runs_of_a_semantic_token_are_cut_for_the_semantic_stage(open_writer, tmp_path):
  spec = stages.semantic_stage(crop_seconds=1.0, num_clusters=10, collapse_repeats=False)
  writer = open_writer(tmp_path)
  tokens = np.array([1, 1, 2, 2, 2, 2, 2, 1, 3, 3, 3, 3], np.int32)
  writer.add(token_shards.TokenClip("a", {"semantic": tokens}, "train", None, 0.48))
  writer.finish()
  features = next(
    InMemoryTokenBatches(tmp_path, dataclasses.replace(spec, longest_run=3), batch_size=1)
  )
  count = int(features["decoder_loss_weights"].sum())
  cut = [1, 1, 2, 2, 2, 1, 3, 3, 3]
  expected = stages.stage_features(spec, np.array(cut, np.int32), None)
  assert count == len(cut)
  _assert_equal(features, {name: value[None] for name, value in expected.items()})
  whole = next(InMemoryTokenBatches(tmp_path, spec, batch_size=1))
  assert int(whole["decoder_loss_weights"].sum()) == len(tokens)


def test_a_batch_that_processes_cannot_share_is_refused(stored_tokens):
  with pytest.raises(DataError, match="batch_size is 5; it must be a positive multiple of 2"):
    InMemoryTokenBatches(stored_tokens, COARSE, batch_size=5, shard=(0, 2))


def test_a_stage_with_other_numbers_than_its_tokens_is_refused(stored_tokens):
  with pytest.raises(DataError, match=r"semantic stage has a vocabulary of 1024 .* have 10"):
    InMemoryTokenBatches(stored_tokens, stages.semantic_stage(), batch_size=1)
  with pytest.raises(DataError, match=r"vocabulary of 1024 in codes, .* have 8"):
    InMemoryTokenBatches(stored_tokens, stages.coarse_stage(num_clusters=10), batch_size=1)


def _with_bad_rows(corpus, folder, good, bad):
  rows = [json.loads(row) for row in corpus.read_text().splitlines()][:good]
  rows = [row | {"path": str(corpus.parent / row["path"]), "split": "train"} for row in rows]
  (folder / "noise.wav").write_bytes(b"not audio")
  rows += [{"path": ["gone.wav", "noise.wav"][i % 2], "split": "train"} for i in range(bad)]
  path = folder / "manifest.jsonl"
  path.write_text("\n".join(json.dumps(row) for row in rows))
  return path


def test_unreadable_clips_are_skipped_counted_and_reported(corpus, tmp_path):
  source = _with_bad_rows(corpus, tmp_path, good=6, bad=2)
  reader = _waveforms(source, max_skipped_fraction=0.25)
  assert set(reader.skipped.skipped) == {"gone.wav", "noise.wav"}
  assert "2 of 8 clips skipped" in reader.skipped.report()
  assert len(reader.clip_ids) == 6


def test_too_many_unreadable_clips_stop_the_run(corpus, tmp_path):
  source = _with_bad_rows(corpus, tmp_path, good=6, bad=2)
  with pytest.raises(DataError, match=r"of 8 clips skipped: .*max_skipped_fraction=0.01"):
    _waveforms(source)


def test_numpy_readers_import_neither_tensorflow_nor_jax():
  code = (
    "import sys; import audiolm_jax.data.in_memory, audiolm_jax.training.batches\n"
    "print([m for m in ('tensorflow', 'seqio', 'jax', 'flax') if m in sys.modules])"
  )
  found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert found.stdout.strip() == "[]"


def test_readers_of_a_bucket_give_what_readers_of_the_disk_give(corpus, stored_tokens):
  for folder, name in ((corpus.parent, "corpus"), (stored_tokens, "tokens")):
    for path in (p for p in folder.rglob("*") if p.is_file()):
      with storage.write_whole(f"memory://readers/{name}/{path.relative_to(folder)}") as file:
        file.write(path.read_bytes())
  _assert_equal(
    next(_waveforms("memory://readers/corpus/manifest.jsonl")), next(_waveforms(corpus))
  )
  there, here = (
    InMemoryTokenBatches(place, COARSE, batch_size=4, token_hash="hash-a")
    for place in ("memory://readers/tokens", stored_tokens)
  )
  _assert_equal(next(there), next(here))
