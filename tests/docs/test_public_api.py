"""The page of the public interface lists all of it."""

import importlib
import re
from pathlib import Path

import pytest

import audiolm_jax

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/public-api.md").read_text()
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE, re.MULTILINE))


def names(text: str) -> set[str]:
  return set(re.findall(r"`(\w+)`", text))


def test_every_exported_name_is_listed():
  listed = PAGE.partition("## Python")[2].partition("## Commands")[0]
  assert names(listed) == set(audiolm_jax.__all__)


def test_every_command_is_listed():
  package = ROOT / "audiolm_jax"
  modules = {p.stem for p in package.glob("[!_]*.py")}
  assert set(ROWS) == modules | {p.parent.name for p in package.glob("*/__main__.py")}


@pytest.mark.parametrize("command", sorted(ROWS))
def test_the_flags_of_a_command_are_listed(command):
  is_package = (ROOT / "audiolm_jax" / command).is_dir()
  module = importlib.import_module(f"audiolm_jax.{command}{'.__main__' if is_package else ''}")
  assert names(ROWS[command]) == set(module.FLAGS)


def test_every_macro_of_the_configurations_is_listed():
  set_by_files = {"MODEL", "STAGE", "STAGE_SPECS", "STREAMS", "TASK"}
  files = "\n".join(path.read_text() for path in ROOT.glob("gin_configs/**/*.gin"))
  macros = set(re.findall(r"^([A-Z][A-Z_0-9]+) =", files, re.MULTILINE)) - set_by_files
  listed = PAGE.partition("## Gin macros")[2].partition("## File formats")[0]
  assert {name for name in names(listed) if name.isupper()} == macros
