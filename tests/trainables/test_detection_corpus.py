import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiolm_jax import bundles
from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.data import manifest
from audiolm_jax.io import provenance
from audiolm_jax.trainables import detection_corpus as corpus
from audiolm_jax.trainables.detection_corpus import CorpusConfig
from tests.conftest import melody

CONFIG = CorpusConfig(prompt_seconds=0.6, duration=1.5, valid_share=0.4, batch_size=2)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
  """Writes eight recordings of 2 to 5 s, a short and a silent one; two splits share a speaker."""
  folder = tmp_path_factory.mktemp("recordings")
  rows = []
  for i in range(10):
    sound = melody({8: 1.0}.get(i, 2.0 + 0.4 * i), seed=i) * (i != 9)
    soundfile.write(folder / f"{i}.wav", sound, 16_000)
    speaker = {7: "0"}.get(i, str(i % 5) if i < 5 else f"new {i}")
    rows.append({"path": f"{i}.wav", "split": "train" if i < 5 else "valid", "speaker": speaker})
  (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  return folder / "manifest.jsonl"


@pytest.fixture(scope="module")
def made(miniature_bundle, recordings, tmp_path_factory):
  folder = tmp_path_factory.mktemp("made")
  counts = corpus.make_corpus(miniature_bundle, recordings, folder, CONFIG, progress=False)
  return folder, counts, read(folder)


def read(folder):
  return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_every_piece_has_all_kinds_of_equal_length(made):
  folder, counts, rows = made
  for split in ("train", "valid", "test"):
    assert 2 * counts[f"{split} codec"] == counts[f"{split} continuation"]
    assert counts[f"{split} codec"] == counts[f"{split} original"]
  assert sum(counts.values()) == len(rows) == len({row["path"] for row in rows})
  for row in rows:
    sound, rate = soundfile.read(folder / row["path"])
    assert len(sound) == round(row["seconds"] * rate) and rate == 16_000
    assert 1.0 <= row["seconds"] <= 1.5 and np.abs(sound).max() > 1e-3
    assert row["label"] == ("synthetic" if row["kind"] == "continuation" else "real")


def test_speakers_are_in_one_split_only_and_unusable_clips_in_none(made):
  rows = made[2]
  splits: dict[str, set[str]] = {}
  for row in rows:
    splits.setdefault(row["speaker"], set()).add(row["split"])
  assert all(len(found) == 1 for found in splits.values())
  assert {"0", "1", "2", "3", "4"} == {s for s, found in splits.items() if found != {"test"}}
  assert {row["source"] for row in rows if row["split"] == "test"} == {"5.wav", "6.wav"}


def test_the_real_class_is_decoded_by_the_codec(made, miniature_bundle, recordings):
  folder, _, rows = made
  row = next(r for r in rows if r["kind"] == "codec" and r["path"].endswith("_000.flac"))
  recording, _ = soundfile.read(recordings.parent / row["source"], dtype="float32")
  codes = miniature_bundle.codec.encode_long(recording[: round(2.1 * 16_000)])
  decoded = miniature_bundle.codec.decode(codes[None])[0][9_600:]
  sound, _ = soundfile.read(folder / row["path"], dtype="float32")
  np.testing.assert_allclose(sound, decoded[: len(sound)], atol=1e-4)
  original = folder / row["path"].replace("codec/", "original/")
  np.testing.assert_allclose(
    soundfile.read(original)[0], recording[9_600 : 9_600 + len(sound)], atol=1e-4
  )


def test_continuations_differ_and_have_provenance(made, miniature_bundle):
  folder, _, rows = made
  first, second = [r for r in rows if r["kind"] == "continuation"][:2]
  assert not np.array_equal(*(soundfile.read(folder / r["path"])[0] for r in (first, second)))  # pyright: ignore[reportArgumentType]: two arrays
  found = provenance.read_provenance(folder / second["path"])
  assert found is not None and (found.bundle, found.sample) == (miniature_bundle.name, 1)
  real = next(r for r in rows if r["kind"] == "codec")
  assert provenance.read_provenance(folder / real["path"]) is None


def test_only_lost_clips_are_made_again(made, miniature_bundle, recordings):
  folder, counts, rows = made
  lost = folder / next(r for r in rows if r["kind"] == "continuation")["path"]
  before = lost.read_bytes()
  others = {p: p.stat().st_mtime_ns for p in folder.glob("*/*.flac")}
  lost.unlink()
  again = corpus.make_corpus(miniature_bundle, recordings, folder, CONFIG, progress=False)
  assert again == counts and lost.read_bytes() == before and read(folder) == rows
  touched = [p for p, t in others.items() if p.stat().st_mtime_ns != t]
  assert len(touched) <= 2 * 4  # those of its batch


def test_a_folder_with_other_settings_is_refused(made, miniature_bundle, recordings):
  with pytest.raises(DataError, match=r"with other settings \(seed\)"):
    corpus.make_corpus(
      miniature_bundle,
      recordings,
      made[0],
      CorpusConfig(prompt_seconds=0.6, duration=1.5, valid_share=0.4, batch_size=2, seed=1),
      progress=False,
    )


def test_a_corpus_of_other_recordings_and_one_that_replaces_their_manifest_are_refused(
  made, miniature_bundle, recordings, tmp_path
):
  folder = made[0]
  other = tmp_path / "other"
  for clip in manifest.list_clips(recordings):
    (other / clip.id).parent.mkdir(parents=True, exist_ok=True)
    (other / clip.id).write_bytes(Path(clip.path).read_bytes() + b"0")
  with pytest.raises(DataError, match=r"with other settings \(recordings\)"):
    corpus.make_corpus(miniature_bundle, other, folder, CONFIG, progress=False)
  before = (folder / "manifest.jsonl").read_bytes()
  with pytest.raises(UserError, match=r"would replace the input file .*manifest\.jsonl"):
    corpus.make_corpus(miniature_bundle, folder / "manifest.jsonl", folder, CONFIG, progress=False)
  assert (folder / "manifest.jsonl").read_bytes() == before


def test_generated_clips_in_the_folder_of_the_recordings_are_no_recordings(
  made, miniature_bundle, recordings, tmp_path
):
  shutil.copytree(recordings.parent, tmp_path / "all")
  shutil.copytree(made[0], tmp_path / "all" / "corpus")
  (tmp_path / "all" / "corpus" / "corpus.json").unlink()
  source, folder = tmp_path / "all", tmp_path / "all" / "corpus"
  with pytest.raises(DataError, match=r"has no recording of 31 s or more"):
    config = CorpusConfig(prompt_seconds=30.0)
    corpus.make_corpus(miniature_bundle, source, folder, config, progress=False)
  stored = json.loads((folder / "corpus.json").read_text())["recordings"]
  names = sorted(path.name for path in recordings.parent.glob("*.wav"))
  assert stored[0] == manifest.hash_of(names)


def test_recordings_at_a_url_are_not_in_the_working_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for path, is_in in (("gs://bucket/a.wav", False), ("a.wav", True), ("/a.wav", False)):
    assert corpus._is_in(Path(), manifest.AudioClip("a", path)) is is_in, path


def test_recordings_that_are_all_too_short_are_refused(miniature_bundle, recordings, tmp_path):
  config = CorpusConfig(prompt_seconds=30.0)
  with pytest.raises(DataError, match="no recording of 31 s or more"):
    corpus.make_corpus(miniature_bundle, recordings, tmp_path, config, progress=False)


def test_a_detector_trains_on_the_corpus_of_the_command(
  run_cli, miniature_bundle, recordings, tmp_path
):
  bundle = bundles.save_bundle(miniature_bundle, tmp_path / "bundle")
  done = run_cli(
    "make_detection_corpus",
    f"--bundle={bundle}",
    f"--data={recordings}",
    f"--output_dir={tmp_path / 'corpus'}",
    "--prompt_seconds=0.6",
    "--duration=1.5",
    "--max_pieces=2",
  )
  assert done.code == 0, done.err
  assert "train codec: 2 clips" in done.out
  from audiolm_jax.data import datasets

  dataset = datasets.InMemoryAudio(
    str(tmp_path / "corpus" / "manifest.jsonl"), 1.0, batch_size=8, labels=corpus.LABELS
  )
  batch = next(iter(dataset()))  # pyright: ignore[reportArgumentType, reportCallIssue]: it can be iterated
  assert {name: x.shape for name, x in dataset.batch_shapes().items()} == {
    name: x.shape for name, x in batch.items()
  }
  assert set(batch["label"].tolist()) == {0, 1}
  assert run_cli("make_detection_corpus").code == 2
