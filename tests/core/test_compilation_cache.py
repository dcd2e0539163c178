"""The folder of compiled programs and its permissions."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from audiolm_jax.core import compilation_cache
from audiolm_jax.diagnosis import checks

_ENABLE = (
  "import jax, warnings\n"
  "warnings.simplefilter('always')\n"
  "from audiolm_jax.core import compilation_cache\n"
  "compilation_cache.enable()\n"
  "print(jax.config.jax_compilation_cache_dir)"
)


def enabled(**environment: str) -> tuple[str, str]:
  """Returns the cache folder of a new process and its stderr."""
  clean = {k: v for k, v in os.environ.items() if k not in ("JAX_COMPILATION_CACHE_DIR", "HOME")}
  done = subprocess.run(
    [sys.executable, "-c", _ENABLE], env=clean | environment, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.strip(), done.stderr


def test_a_folder_that_others_could_write_to_is_closed_to_them(tmp_path):
  folder, _ = enabled(AUDIOLM_JAX_CACHE=str(tmp_path / "new"))
  assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
  (Path(folder) / "programs").mkdir()
  (Path(folder) / "programs" / "planted").write_bytes(b"code")
  Path(folder).chmod(0o777)
  found, stderr = enabled(AUDIOLM_JAX_CACHE=str(tmp_path / "new"))
  assert found == folder and "others could write to" in stderr
  assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
  assert not list(Path(folder).iterdir())


def test_a_folder_of_jax_that_everybody_can_write_to_is_not_used(tmp_path):
  program = _ENABLE + "\nprint(jax.config.jax_enable_compilation_cache)"
  for mode, used in ((0o777, False), (0o755, True)):
    tmp_path.chmod(mode)
    done = subprocess.run(
      [sys.executable, "-c", program],
      env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)},
      capture_output=True,
      text=True,
    )
    assert done.stdout.split()[-1] == str(used), done.stderr
    assert ("other users can write to" in done.stderr) is not used


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_the_folder_of_another_user_is_not_used(tmp_path):
  folder, _ = enabled(AUDIOLM_JAX_CACHE=str(tmp_path / "other"))
  os.chown(folder, 12345, 12345)
  found, stderr = enabled(AUDIOLM_JAX_CACHE=str(tmp_path / "other"))
  assert found == "None" and "belongs to another user" in stderr


def test_a_user_without_a_home_folder_has_no_cache(monkeypatch):
  monkeypatch.delenv("AUDIOLM_JAX_CACHE", raising=False)
  monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)

  def no_home():
    raise RuntimeError("Could not determine home directory.")

  monkeypatch.setattr(Path, "home", no_home)
  assert compilation_cache.cache_folder() is None
  found = checks._check_cache()
  assert "no home folder" in found.found and "set AUDIOLM_JAX_CACHE to a folder" in found.fix
