import json

import pytest
import soundfile

from audiolm_jax import bundles
from tests.conftest import melody

RATE = 16_000


@pytest.fixture(scope="module")
def bundle_folder(miniature_bundle, tmp_path_factory):
  return bundles.save_bundle(miniature_bundle, tmp_path_factory.mktemp("bundles") / "miniature")


@pytest.fixture
def recordings(tmp_path):
  (tmp_path / "data").mkdir()
  soundfile.write(tmp_path / "data" / "one.wav", melody(1.5), RATE)
  return tmp_path / "data"


@pytest.mark.parametrize("kind", ["units", "codec", "resynthesis", "continuations", "likelihoods"])
def test_every_kind_is_written(run_cli, bundle_folder, recordings, tmp_path, kind):
  (tmp_path / "dev.item").write_text("one 0.1 0.5 a x y s\none 0.6 0.9 b x y s\n")
  (tmp_path / "pairs.jsonl").write_text('{"good": "data/one.wav", "bad": "data/one.wav"}')
  done = run_cli(
    *("export_outputs", kind, f"--bundle={bundle_folder}", f"--data={recordings}"),
    *(f"--items={tmp_path / 'dev.item'}", f"--pairs={tmp_path / 'pairs.jsonl'}"),
    *("--prompt_seconds=0.6", "--duration=0.5", f"--output_dir={tmp_path / 'out'}"),
  )
  assert done.code == 0, done.err
  facts = json.loads((tmp_path / "out" / "export.json").read_text())
  assert (facts["outputs"], facts["bundle"]) == (kind, "miniature")
  written = {
    "units": ("units.jsonl", "semantic_tokens/one.npy"),
    "codec": ("codec.scp", "codec/one.wav"),
    "resynthesis": ("resynthesis.scp", "resynthesis/one.wav"),
    "continuations": ("real.scp", "continuation/one.wav"),
    "likelihoods": ("coarse_sum.txt", "semantic_mean.txt"),
  }
  assert all((tmp_path / "out" / name).stat().st_size for name in written[kind])


def test_fewer_levels_are_another_sound(run_cli, bundle_folder, recordings, tmp_path):
  found = []
  for levels in (1, 4):
    out = tmp_path / f"out{levels}"
    arguments = (f"--bundle={bundle_folder}", f"--data={recordings}", f"--output_dir={out}")
    assert not run_cli("export_outputs", "codec", *arguments, f"--num_quantizers={levels}").code
    found.append(soundfile.read(out / "codec" / "one.wav")[0])
  assert len(found[0]) == len(found[1]) and (found[0] != found[1]).any()


def test_wrong_commands_are_refused(run_cli, bundle_folder, recordings, tmp_path):
  assert "name one kind of outputs: units, codec" in run_cli("export_outputs").err
  assert "units needs --items" in run_cli("export_outputs", "units", "--data=x").err
  arguments = ("export_outputs", "codec", f"--bundle={bundle_folder}", f"--data={recordings}")
  assert "choose another one" in run_cli(*arguments, f"--output_dir={recordings / 'out'}").err
  done = run_cli(*arguments, f"--output_dir={tmp_path / 'out'}", "--num_quantizers=5")
  assert done.code == 2 and "the codec of miniature has 4 levels" in done.err
