import json
from typing import Any

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import DataError
from audiolm_jax.data.frame_labels import (
  NO_LABEL,
  FrameLabels,
  load_frame_labels,
  save_frame_labels,
)
from audiolm_jax.data.in_memory import InMemoryFrameLabelBatches

HOP = 320


@pytest.fixture
def counted(tmp_path):
  """A corpus whose samples are the number of their frame, which is also the label."""
  rows, labels = [], {}
  for name, frames, split in [("a", 30, "train"), ("b", 100, "train"), ("c", 40, "valid")]:
    samples = np.repeat(np.arange(frames), HOP)[: frames * HOP - 100]
    soundfile.write(tmp_path / f"{name}.wav", samples.astype(np.int16), 16_000)
    rows.append({"path": f"{name}.wav", "split": split})
    labels[f"{name}.wav"] = np.arange(frames)
  manifest = tmp_path / "manifest.jsonl"
  manifest.write_text("\n".join(map(json.dumps, rows)))
  return manifest, FrameLabels(labels, 100, HOP, 16_000)


def test_labels_are_read_back(tmp_path, counted):
  save_frame_labels(tmp_path / "labels.npz", counted[1])
  loaded = load_frame_labels(tmp_path / "labels.npz")
  assert (loaded.num_labels, loaded.hop_length, loaded.sample_rate) == (100, HOP, 16_000)
  assert loaded.clips.keys() == counted[1].clips.keys()
  for name, values in counted[1].clips.items():
    np.testing.assert_array_equal(loaded.clips[name], values)


def test_damaged_files_and_labels_out_of_range_are_rejected(tmp_path, counted):
  path = tmp_path / "labels.npz"
  with pytest.raises(DataError, match="cannot be read as labels"):
    load_frame_labels(path)
  save_frame_labels(path, counted[1])
  path.write_bytes(path.read_bytes()[:-200])
  with pytest.raises(DataError, match="cannot be read as labels"):
    load_frame_labels(path)
  save_frame_labels(path, FrameLabels({"x": np.array([5])}, 5, HOP, 16_000))
  with pytest.raises(DataError, match=r"labels of x .* are not numbers from 0 to 4"):
    load_frame_labels(path)
  numbers = {"num_labels": 5, "hop_length": HOP, "sample_rate": 16_000}
  np.savez(path, **{"clip/y": np.array([0, -1])}, **numbers)  # pyright: ignore[reportArgumentType]: names of arrays
  with pytest.raises(DataError, match=r"labels of y .* are not numbers from 0 to 4"):
    load_frame_labels(path)


@pytest.mark.parametrize("num_epochs", [None, 1])
def test_labels_are_those_of_the_samples_of_the_crop(counted, num_epochs):
  manifest, labels = counted
  reader = InMemoryFrameLabelBatches(
    manifest, labels, crop_seconds=1.0, batch_size=2, num_epochs=num_epochs
  )
  starts = set()
  for _, batch in zip(range(8), reader, strict=False):
    assert batch["frame_label"].shape == (2, 50) and batch["frame_label"].dtype == np.int32
    for waveform, length, label in zip(*batch.values(), strict=True):
      frames = -(-int(length) // HOP)
      np.testing.assert_array_equal(np.rint(waveform[::HOP][:frames] * 32768), label[:frames])
      assert (label[frames:] == NO_LABEL).all()
      starts.add(int(label[0]))
  assert len(starts) > 2 or num_epochs


def test_clips_without_labels_are_left_out(counted):
  manifest, labels = counted
  some = FrameLabels({"b.wav": labels.clips["b.wav"]}, 100, HOP, 16_000)
  reader = InMemoryFrameLabelBatches(manifest, some, crop_seconds=1.0, batch_size=2)
  assert reader.clip_ids == ["b.wav"]
  with pytest.raises(DataError, match="none of the 1 clips of the split 'valid' has labels"):
    InMemoryFrameLabelBatches(manifest, some, "valid", crop_seconds=1.0, batch_size=2)
  with pytest.raises(DataError, match="not a multiple of a frame"):
    InMemoryFrameLabelBatches(manifest, labels, crop_seconds=0.5001, batch_size=2)


def test_whole_clips_have_the_characters_of_their_text(counted):
  manifest, labels = counted
  rows = [json.loads(line) for line in manifest.read_text().splitlines()]
  for row, written in zip(rows, ["A bat: 2!", "cab", None], strict=True):
    row["text"] = written
  manifest.write_text("\n".join(map(json.dumps, rows)))

  def texts(**settings: Any):
    reader = InMemoryFrameLabelBatches(
      manifest, labels, crop_seconds=1.0, batch_size=1, num_epochs=1, characters=" abtwo",
      **{"longest_text": 9, **settings},
    )  # fmt: skip
    return {tuple(row[row != NO_LABEL]) for batch in reader for row in batch["text"]}

  whole = tuple(" abtwo".index(c) for c in "a bat two")
  assert texts() == {whole, ()}  # b.wav is longer than a crop
  assert texts(longest_text=8) == {()}
  with pytest.raises(DataError, match="none of the 1 clips has a text"):
    texts(split="valid")
