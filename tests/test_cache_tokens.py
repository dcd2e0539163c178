"""The command `cache_tokens`."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile

from audiolm_jax import bundles
from audiolm_jax.data import token_store


def _run(*arguments):
  command = [sys.executable, "-m", "audiolm_jax.cache_tokens", *map(str, arguments)]
  return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_writes_a_store_and_reports_on_it(miniature_bundle, tmp_path):
  bundle = bundles.save_bundle(miniature_bundle, tmp_path / "bundle")
  (tmp_path / "audio").mkdir()
  for i in range(3):
    soundfile.write(tmp_path / "audio" / f"{i}.wav", np.sin(np.arange(8000 * (i + 1)) / 9), 16_000)
  (tmp_path / "audio" / "bad.wav").write_bytes(b"not audio")
  arguments = ("--bundle", bundle, "--audio_dir", tmp_path / "audio")
  arguments += ("--output_dir", tmp_path / "store", "--max_skipped_fraction", 0.3)
  result = _run(*arguments)
  assert result.returncode == 0, result.stderr
  assert "bad.wav: " in result.stdout and "x real time" in result.stdout
  assert "4/4" in result.stderr
  store = token_store.TokenStore(tmp_path / "store", miniature_bundle.token_hash)
  assert len(store) == 3
  info = _run("info", tmp_path / "store")
  assert info.returncode == 0, info.stderr
  assert "MB per hour of audio" in info.stdout and "bad.wav: " in info.stdout
  soundfile.write(tmp_path / "audio" / "0.wav", np.sin(np.arange(8000) / 5), 16_000)
  (tmp_path / "audio" / "1.wav").unlink()
  changed = _run(*arguments)
  assert changed.returncode == 2
  last = changed.stderr.strip().splitlines()[-1]
  assert last.startswith("error: 1 clips of") and "give --replace_changed" in last
  replaced = _run(*arguments, "--max_skipped_fraction=0.4", "--replace_changed")
  assert replaced.returncode == 0, replaced.stderr
  assert "\n1 clips changed and were tokenized again\n" in replaced.stdout
  assert "\n1 clips are not in the corpus any more and were dropped\n" in replaced.stdout
  strict = _run(*arguments[:-2])
  assert strict.returncode == 2
  assert strict.stderr.strip().splitlines()[-1].startswith("error: 1 of 3 clips skipped: bad.wav")
  assert "Traceback" not in strict.stderr


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ((), "--bundle is required"),
    (("--bundle", "b", "--output_dir", "o"), "exactly one of --audio_dir, --manifest"),
    (("--bundle", "b", "--output_dir", "o", "--task", "t"), "--task needs --runner"),
    (
      ("--bundle", "b", "--output_dir", "o", "--audio_dir", ".", "--beam_options=--x"),
      "--beam_options needs --runner",
    ),
    (("info", "/no/such"), "is not a token store"),
    (("information",), "unexpected argument 'information'"),
    (("--bundle", "no_such", "--output_dir", "o", "--audio_dir", "."), "no bundle 'no_such'"),
  ],
)
def test_bad_arguments_end_with_one_line_and_code_2(arguments, message):
  result = _run(*arguments)
  assert result.returncode == 2
  assert message in result.stderr and "Traceback" not in result.stderr


def test_help_needs_neither_beam_nor_tensorflow():
  code = (
    "import sys, audiolm_jax.cache_tokens\n"
    "heavy = {'apache_beam', 'tensorflow', 'seqio', 'jax'} & set(sys.modules)\n"
    "assert not heavy, heavy"
  )
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
  shown = _run("--help")
  assert "DataflowRunner" in shown.stdout and "--beam_options" in shown.stdout
