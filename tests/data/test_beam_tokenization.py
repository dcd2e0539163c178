"""Token stores by Beam: the same tokens as here, and no finished shard made again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytest.importorskip("apache_beam")
pytest.importorskip("seqio")

from audiolm_jax import bundles
from audiolm_jax.core.errors import DataError, UserError
from audiolm_jax.core.streams import SOURCE_SEMANTIC
from audiolm_jax.data import beam_tokenization, manifest, token_store, tokenization
from audiolm_jax.data.beam_tokenization import TokenizationJob
from audiolm_jax.io import storage

ROOT = Path(__file__).parents[2]
TWO_PROCESSES = "--direct_num_workers=2 --direct_running_mode=multi_processing"


@pytest.fixture(scope="module")
def bundle_dir(miniature_bundle, tmp_path_factory):
  return str(bundles.save_bundle(miniature_bundle, tmp_path_factory.mktemp("bundles") / "mini"))


@pytest.fixture(scope="module")
def local_store(miniature_bundle, corpus, tmp_path_factory):
  folder = tmp_path_factory.mktemp("local")
  tokenization.tokenize_corpus(
    miniature_bundle, corpus, folder, progress=False, clips_per_shard=2, batch_size=1
  )
  return folder


def _run(job, options=""):
  return beam_tokenization.tokenize_corpus(job, "DirectRunner", options)


def _assert_same_tokens(first, second):
  stores = [token_store.TokenStore(folder).clips() for folder in (first, second)]
  for one, other in zip(*stores, strict=True):
    assert (one.id, one.split, one.speaker) == (other.id, other.split, other.speaker)
    assert one.seconds == other.seconds
    np.testing.assert_array_equal(one.streams["semantic"], other.streams["semantic"])
    np.testing.assert_array_equal(one.streams["codes"], other.streams["codes"])


def test_beam_makes_the_store_that_is_made_here(bundle_dir, corpus, local_store, tmp_path):
  job = TokenizationJob(
    bundle_dir, str(tmp_path), source=str(corpus), clips_per_shard=2, batch_size=2
  )
  done = _run(job)
  expected = token_store.read_info(local_store)
  assert done.info.complete and done.info.clips == expected.clips == {"train": 5, "valid": 2}
  assert done.info.hours == pytest.approx(expected.hours)
  assert done.seconds_of_audio == pytest.approx(0.3 * 28, abs=1e-3)
  for name in ("token_hash", "streams", "tokens", "speakers"):
    assert getattr(done.info, name) == getattr(expected, name)
  assert set(done.info.shards) == set(expected.shards)
  _assert_same_tokens(tmp_path, local_store)


def test_what_is_finished_is_not_done_again_and_what_is_lost_is(
  bundle_dir, corpus, local_store, tmp_path
):
  job = TokenizationJob(bundle_dir, str(tmp_path), source=str(corpus), clips_per_shard=2)
  _run(job)
  lost, *kept = sorted(tmp_path.glob("tokens-*.npz"))
  (tmp_path / "store.json").unlink()  # as where a pipeline was killed before its end
  lost.unlink()
  before = {path: path.stat().st_mtime_ns for path in kept}
  again = _run(job)
  assert again.info.complete and again.info.clips == {"train": 5, "valid": 2}
  assert {path: path.stat().st_mtime_ns for path in kept} == before and lost.exists()
  assert 0 < again.seconds_of_audio < 0.3 * 28
  _assert_same_tokens(tmp_path, local_store)
  assert _run(job).seconds_of_audio == 0


def test_beam_stores_the_tokens_of_sources(miniature_bundle, bundle_dir, corpus, tmp_path):
  names = [clip.path for clip in manifest.list_clips(corpus)[:3]]
  rows = [{"path": names[0], "source_path": names[2]}, {"path": names[1]}]
  source = tmp_path / "pairs.jsonl"
  source.write_text("".join(json.dumps(row | {"split": "train"}) + "\n" for row in rows))
  done = _run(
    TokenizationJob(bundle_dir, str(tmp_path / "beam"), source=str(source), streams=("semantic",))
  )
  tokenization.tokenize_corpus(
    miniature_bundle, source, tmp_path / "here", streams=("semantic",), progress=False
  )
  assert done.info.streams == token_store.read_info(tmp_path / "here").streams
  stores = [token_store.TokenStore(tmp_path / name).clips() for name in ("beam", "here")]
  for one, other in zip(*stores, strict=True):
    for key in ("semantic", SOURCE_SEMANTIC):
      np.testing.assert_array_equal(one.streams[key], other.streams[key])
  assert [len(clip.streams[SOURCE_SEMANTIC]) > 0 for clip in stores[0]] == [True, False]


def test_changed_clips_are_tokenized_again_if_asked_for(bundle_dir, corpus, local_store, tmp_path):
  sounds = tmp_path / "sounds"
  shutil.copytree(corpus.parent, sounds)
  job = TokenizationJob(
    bundle_dir, str(tmp_path / "store"), str(sounds / corpus.name), clips_per_shard=2
  )
  changed = Path(manifest.list_clips(sounds / corpus.name)[1].path)
  original = changed.read_bytes()
  soundfile.write(changed, np.sin(np.arange(16_000) / 9), 16_000)
  before = _run(job)
  assert (before.changed, before.removed) == (0, 0)
  changed.write_bytes(original)
  with pytest.raises(DataError, match=r"1 clips of .* have changed"):
    _run(job)
  done = beam_tokenization.tokenize_corpus(job, "DirectRunner", replace_changed=True)
  assert (done.changed, done.removed) == (1, 0)
  assert 0 < done.seconds_of_audio < 0.3 * 14
  _assert_same_tokens(tmp_path / "store", local_store)


def test_the_bundle_is_loaded_once_for_all_shards_of_a_process(
  bundle_dir, corpus, tmp_path, monkeypatch
):
  loaded = []
  load = beam_tokenization._load
  monkeypatch.setattr(beam_tokenization, "_load", lambda name: loaded.append(name) or load(name))
  _run(TokenizationJob(bundle_dir, str(tmp_path), source=str(corpus), clips_per_shard=1))
  assert len(token_store.read_info(tmp_path).shards) == 7
  assert len(loaded) == 2  # by the one who starts it, and by the worker


def test_source_bundle_and_store_may_be_urls(bundle_dir, corpus, local_store):
  for folder, name in ((corpus.parent, "corpus"), (Path(bundle_dir), "bundle")):
    for path in filter(Path.is_file, folder.rglob("*")):
      with storage.write_whole(f"memory://beam/{name}/{path.relative_to(folder)}") as file:
        file.write(path.read_bytes())
  urls = [f"memory://beam/{name}" for name in ("bundle", "store", "corpus/manifest.jsonl")]
  assert _run(TokenizationJob(*urls, clips_per_shard=2)).info.complete  # pyright: ignore[reportArgumentType]: two paths
  _assert_same_tokens("memory://beam/store", local_store)


def test_unreadable_clips_are_reported_and_leave_the_store_unfinished_past_the_share(
  bundle_dir, tmp_path
):
  (tmp_path / "audio").mkdir()
  for i in range(3):
    soundfile.write(tmp_path / "audio" / f"{i}.wav", np.full(4000, 0.1 * i + 0.1), 16_000)
  (tmp_path / "audio" / "bad.wav").write_bytes(b"not audio")
  job = TokenizationJob(bundle_dir, str(tmp_path / "store"), source=str(tmp_path / "audio"))
  with pytest.raises(DataError, match=r"1 of 4 clips skipped: bad.wav"):
    _run(job)
  assert not token_store.read_info(tmp_path / "store").complete
  done = _run(TokenizationJob(**{**job.__dict__, "max_skipped_fraction": 0.25}))
  assert done.info.complete and list(done.info.skipped) == ["bad.wav"]
  assert sum(done.info.clips.values()) == 3


def test_a_source_or_store_that_cannot_be_used_is_refused_before_anything_runs(
  bundle_dir, corpus, stored_tokens, tmp_path
):
  with pytest.raises(DataError, match="does not exist"):
    _run(TokenizationJob(bundle_dir, str(tmp_path), source=str(tmp_path / "nowhere")))
  with pytest.raises(DataError, match="other tokenizers"):
    _run(TokenizationJob(bundle_dir, str(stored_tokens), source=str(corpus)))
  with pytest.raises(UserError, match="--replace_changed cannot be used with --task"):
    beam_tokenization.tokenize_corpus(
      TokenizationJob(bundle_dir, str(tmp_path), task="t", module="m"),
      "DirectRunner",
      replace_changed=True,
    )
  with pytest.raises(UserError, match=r"many.*cannot be used: .*direct_num_workers"):
    _run(
      TokenizationJob(bundle_dir, str(tmp_path), source=str(corpus)), "--direct_num_workers=many"
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory):
  """Forty clips of a second."""
  folder = tmp_path_factory.mktemp("many")
  rng = np.random.default_rng(0)
  for i in range(40):
    soundfile.write(folder / f"{i:02d}.wav", 0.1 * rng.standard_normal(16_000), 16_000)
  return folder


def _command(audio, bundle_dir, output_dir, *more):
  return [
    *(sys.executable, "-m", "audiolm_jax.cache_tokens", "--runner", "DirectRunner"),
    *("--bundle", bundle_dir, "--audio_dir", audio, "--output_dir", output_dir),
    *("--clips_per_shard", "1", "--beam_options", TWO_PROCESSES, *more),
  ]


def test_two_killed_processes_resume_with_the_missing_shards(
  miniature_bundle, many, bundle_dir, tmp_path
):
  command = [str(part) for part in _command(many, bundle_dir, tmp_path / "store")]
  settings = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
  run = subprocess.Popen(command, **settings, start_new_session=True)
  until = time.monotonic() + 120
  while len(list(tmp_path.glob("store/tokens-*.npz"))) < 5 and time.monotonic() < until:
    time.sleep(0.01)
  os.killpg(run.pid, signal.SIGKILL)
  run.wait()
  before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("store/tokens-*.npz")}
  assert 5 <= len(before) < 40
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  assert {path: path.stat().st_mtime_ns for path in before} == before
  assert token_store.read_info(tmp_path / "store").complete
  tokenization.tokenize_corpus(miniature_bundle, many, tmp_path / "here", progress=False)
  _assert_same_tokens(tmp_path / "store", tmp_path / "here")
  assert "train" in json.loads((tmp_path / "store" / "store.json").read_text())["clips"]
