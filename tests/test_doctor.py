"""The doctor reports what works, what is broken and how to fix it."""

import dataclasses
import importlib.metadata
import json
import re
import sys
from pathlib import Path

import pytest

from audiolm_jax.bundles import manifest, save_bundle
from audiolm_jax.diagnosis import checks as diagnosis
from audiolm_jax.diagnosis.checks import Status

EXTRAS = Path(__file__).parents[1] / "requirements" / "extras"


@pytest.fixture
def bundle(miniature_bundle, tmp_path, monkeypatch):
  """Replaces the shipped bundles by a miniature one and a damaged one."""
  saved = save_bundle(miniature_bundle, tmp_path / "mini")
  damaged = save_bundle(miniature_bundle, tmp_path / "worn")
  (damaged / "codec.safetensors").write_bytes(b"")
  monkeypatch.setattr(manifest, "_SHIPPED", tmp_path)
  return saved


def test_a_machine_that_samples_gives_exit_code_0_and_json_for_scripts(run_cli, bundle):
  done = run_cli("doctor", "--bundle=mini", "--json")
  assert done.code == 0, done.err
  found = json.loads(done.out)
  checks = {check["name"]: check for check in found["checks"]}
  assert found["sampling_works"] is True
  assert checks["jax"]["found"] == importlib.metadata.version("jax")
  assert checks["sampling"]["found"].startswith("0.40 s of audio in ")
  assert "cpu" in checks["devices"]["found"] and checks["memory"]["status"] in ("ok", "warning")
  # Another damaged bundle does not prevent sampling.
  assert checks["bundle worn"]["status"] == "warning"
  assert "codec.safetensors is damaged" in checks["bundle worn"]["found"]


def test_a_bundle_that_does_not_load_gives_exit_code_1_and_the_fix(run_cli, bundle):
  done = run_cli("doctor", "--bundle=worn")
  assert done.code == 1
  lines = done.out.splitlines()
  at = next(i for i, line in enumerate(lines) if re.match("broken +bundle worn", line))
  assert "fix: install the package again" in lines[at + 1]
  assert lines[-1].startswith("sampling does not work")
  assert not any("sampling  " in line for line in lines), "sampling is not tried"


def test_a_bundle_without_stages_cannot_sample(run_cli, miniature_bundle, bundle, tmp_path):
  save_bundle(dataclasses.replace(miniature_bundle, stages={}), tmp_path / "bare")
  done = run_cli("doctor", "--bundle=bare", "--json")
  checks = {check["name"]: check["status"] for check in json.loads(done.out)["checks"]}
  assert done.code == 1
  assert checks["bundle bare"] == "ok" and checks["sampling"] == "broken"


def test_a_missing_package_gives_exit_code_1_and_skips_dependent_checks(run_cli, monkeypatch):
  monkeypatch.setitem(sys.modules, "soxr", None)
  done = run_cli("doctor")
  assert done.code == 1 and "broken   soxr" in done.out
  assert "fix: pip install --force-reinstall" in done.out and "devices" not in done.out


def test_absent_extras_are_reported_with_the_fix(monkeypatch):
  monkeypatch.setattr(
    diagnosis, "OPTIONAL", {"plot": ("numpy no-such-package", "plots"), "hub": ("numpy", "x")}
  )
  absent, installed = diagnosis.check_optional()
  assert absent.status is Status.ABSENT and installed.status is Status.OK
  assert absent.found == "not installed: no-such-package; needed for plots"
  assert absent.fix.startswith("pip install ") and absent.fix.endswith('[plot]"')


def test_a_cache_that_is_off_or_cannot_be_written_is_reported(monkeypatch, tmp_path):
  (tmp_path / "file").touch()
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "file" / "cache"))
  check = diagnosis._check_cache()
  assert check.status is Status.WARNING and "AUDIOLM_JAX_CACHE" in check.fix
  monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
  monkeypatch.setenv("AUDIOLM_JAX_CACHE", "off")
  assert diagnosis._check_cache().status is Status.ABSENT


@pytest.mark.parametrize("extra", sorted(diagnosis.OPTIONAL))
def test_the_doctor_lists_the_packages_of_each_extra(extra):
  pyproject = (EXTRAS.parents[1] / "pyproject.toml").read_text()
  files = re.search(rf"^{extra} = {{ file = \[(.*)\] }}", pyproject, re.MULTILINE)
  assert files, extra
  lines = [
    line
    for name in re.findall(r'"([^"]+)"', files[1])
    for line in (EXTRAS.parents[1] / name).read_text().splitlines()
  ]
  named = {re.split("[=<>]", line)[0] for line in lines if not line.startswith("#")}
  assert named == set(diagnosis.OPTIONAL[extra][0].split())
