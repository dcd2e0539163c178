"""The command `make_watermark`."""

import dataclasses

import numpy as np
import pytest
import soundfile

from audiolm_jax.bundles import load_bundle, save_bundle
from audiolm_jax.detection.watermark import WatermarkKind
from tests.conftest import melody

RATE = 16_000


@pytest.fixture(scope="module")
def paths(miniature_bundle, tmp_path_factory):
  folder = tmp_path_factory.mktemp("watermark")
  save_bundle(miniature_bundle, folder / "mini")
  for number in range(2):
    soundfile.write(folder / f"{number}.wav", melody(2.0, seed=number), RATE)
  rows = [f'{{"path": "{number}.wav", "split": "train"}}' for number in range(2)]
  (folder / "m.jsonl").write_text("\n".join(rows))
  return folder


def test_the_bundle_has_communities_a_key_and_the_survival_of_each_level(
  paths, run_cli, miniature_bundle, tmp_path
):
  pytest.importorskip("sknetwork")
  given = [f"--bundle={paths / 'mini'}", f"--data={paths / 'm.jsonl'}"]
  done = run_cli("make_watermark", *given, f"--output={tmp_path / 'new'}", "--levels=2")
  assert done.code == 0, done.err
  assert "effective communities" in done.out and "noise at 20 dB" in done.out
  made = load_bundle(tmp_path / "new")
  assert made.watermark is not None
  config = made.watermark.config
  assert (config.levels, config.period, config.frames, config.strength) == (2, 100, 0, 2.0)
  assert len(set(made.metadata["watermark"])) == 5
  assert made.token_hash == miniature_bundle.token_hash and set(made.stages) == {
    "semantic", "coarse", "fine",
  }  # fmt: skip
  flags = f"--output={tmp_path / 'again'}", "--levels=2", "--kind=gumbel"
  assert run_cli("make_watermark", *given, *flags).code == 0
  other = load_bundle(tmp_path / "again").watermark
  gumbel = dataclasses.replace(
    config, kind=WatermarkKind.GUMBEL, frames=2, strength=1.0, period=0, weights=()
  )
  assert other is not None and other.config == gumbel
  flags = f"--output={tmp_path / 'third'}", "--levels=2", "--frames=1"
  assert run_cli("make_watermark", *given, *flags).code == 0
  third = load_bundle(tmp_path / "third").watermark
  assert third is not None and third.config == dataclasses.replace(
    config, frames=1, period=0, weights=()
  )
  np.testing.assert_array_equal(other.communities, third.communities)


def test_wrong_flags_are_refused_before_anything_is_encoded(paths, run_cli, tmp_path, monkeypatch):
  from audiolm_jax.evaluation import communities

  monkeypatch.setattr(communities, "check_installed", lambda: None)
  given = [f"--bundle={paths / 'mini'}", f"--data={paths / 'm.jsonl'}"]
  given.append(f"--output={tmp_path / 'new'}")
  for arguments, words in (
    (given[:2], "--output is needed"),
    ([*given, "--levels=5"], "--levels is 5; give a whole number from 1 to 4"),
    ([*given, "--frames=4", "--coarser=1"], "at most 4 together"),
    ([*given, "--strength=-1"], "--strength is -1.0"),
    ([*given, "--weights=3,x"], "--weights 3,x is not a list of whole numbers"),
    ([*given, "--weights=3", "--period=0"], "and a period"),
    ([*given, "--kind=gumbel", "--strength=2"], "it has none, set it to 1"),
    ([*given, "--split=test"], "test"),
  ):
    done = run_cli("make_watermark", *arguments)
    assert done.code == 2 and words in done.err, done.err
  assert not (tmp_path / "new").exists()
