"""The wheel, built, installed into an empty environment and used from another folder.

Takes minutes and asks the package index: pytest -m slow tests/test_wheel.py
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import audiolm_jax

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[1]


def run(*command, folder, **environment):
  """Returns the output of a command; `environment` hides this checkout from it."""
  kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
  done = subprocess.run(
    [str(part) for part in command], cwd=folder, env=kept | environment,
    capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def interpreter(version):
  """An interpreter of the version: the running one, on the PATH, or of pyenv."""
  if f"{sys.version_info[0]}.{sys.version_info[1]}" == version:
    return sys.executable
  candidates = [shutil.which(f"python{version}")]
  candidates += Path.home().glob(f".pyenv/versions/{version}.*/bin/python")  # pyright: ignore[reportOperatorIssue]: paths serve
  ask = "import sys; print('%d.%d' % sys.version_info[:2])"
  for candidate in filter(None, candidates):
    done = subprocess.run([str(candidate), "-c", ask], capture_output=True, text=True)
    if done.stdout.strip() == version:
      return candidate
  pytest.skip(f"no Python {version} here")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """Made of the sdist, which is made of a copy of what git knows."""
  work = tmp_path_factory.mktemp("build")
  names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", folder=REPOSITORY)
  for name in names.splitlines():
    if (REPOSITORY / name).is_file():
      (work / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(REPOSITORY / name, work / "checkout" / name)
  run(sys.executable, "-m", "venv", work / "builder", folder=work)
  python = work / "builder" / "bin" / "python"
  run(python, "-m", "pip", "install", "--quiet", "setuptools>=77", folder=work)
  program = f"from setuptools import build_meta; build_meta.build_sdist({str(work)!r})"
  run(python, "-c", program, folder=work / "checkout")
  (sdist,) = work.glob("*.tar.gz")
  run(
    python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
    "--wheel-dir", work, sdist, folder=work,
  )  # fmt: skip
  (built,) = work.glob("*.whl")
  return built


@pytest.mark.parametrize("version", ["3.11", "3.12"])
def test_the_wheel_alone_samples_from_any_folder(wheel, tmp_path, version):
  run(interpreter(version), "-m", "venv", tmp_path / "venv", folder=tmp_path)
  python = tmp_path / "venv" / "bin" / "python"
  run(python, "-m", "pip", "install", "--quiet", wheel, folder=tmp_path)
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  ask = (
    "import audiolm_jax as a, importlib.metadata as m; print(a.__version__, m.version(a.__name__))"
  )
  versions = run(python, "-c", ask, folder=elsewhere).split()
  assert versions == [audiolm_jax.__version__] * 2
  shutil.copyfile(REPOSITORY / "examples" / "speech_woman.flac", elsewhere / "prompt.flac")
  printed = run(
    python, "-m", "audiolm_jax.sample", "--prompt=prompt.flac", "--output=out.wav", "--duration=1",
    "--bundle=speech", folder=elsewhere, AUDIOLM_JAX_CACHE=str(tmp_path / "cache"),
  )  # fmt: skip
  assert printed.startswith("out.wav: 4.00 s")
  assert (elsewhere / "out.wav").stat().st_size > 4 * 16_000 * 2
  installed = run(python, "-m", "pip", "list", folder=elsewhere)
  assert not re.search(r"(?im)^(tensorflow|seqio|gin-config)\b", installed)


def test_the_wheel_has_the_configurations_where_train_looks_for_them(wheel, tmp_path):
  with zipfile.ZipFile(wheel) as archive:
    archive.extractall(tmp_path / "site")
  printed = run(
    sys.executable, "-m", "audiolm_jax.train", "--gin_file=gin_configs/codec_tiny.gin",
    "--gin_file=gin_configs/runs/audio_in_memory.gin", "--gin.AUDIO_DIR='recordings'",
    "--gin.MODEL_DIR='run'", "--dry_run", folder=tmp_path, PYTHONPATH=str(tmp_path / "site"),
  )  # fmt: skip
  assert "TRAIN_STEPS = 10000" in printed
  tasks = "import tasks, gin_configs; print(tasks.__file__)"
  found = run(sys.executable, "-c", tasks, folder=tmp_path, PYTHONPATH=str(tmp_path / "site"))
  assert found.startswith(str(tmp_path / "site"))
