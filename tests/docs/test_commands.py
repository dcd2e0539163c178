"""The commands, files and names in the documentation exist."""

import ast
import importlib
import importlib.util
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
  *sorted(ROOT.glob("docs/**/*.md")),
  *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "launch/README.md")),
]
GIN = "\n".join(path.read_text() for path in sorted(ROOT.glob("gin_configs/**/*.gin")))
COMMAND = re.compile(r"(-m audiolm_jax\.\w+|(?<![\w/])launch/\w+\.(?:sh|py))\b([^`\n|]*)")


class Command(NamedTuple):
  """A program of a page and what follows its name."""

  page: str
  program: str
  arguments: str


def commands() -> Iterator[Command]:
  for page in PAGES:
    text = page.read_text().replace("\\\n", " ")
    for program, arguments in COMMAND.findall(text):
      yield Command(str(page.relative_to(ROOT)), program.removeprefix("-m "), arguments)


def split(command: Command) -> Iterator[tuple[str, str]]:
  """Each program with the arguments that are its own: what follows ` -- ` is another's."""
  own, _, passed_on = command.arguments.partition(" -- ")
  yield command.program, own
  if passed_on:
    is_dataflow = command.program.endswith("dataflow.sh")
    yield "audiolm_jax.cache_tokens" if is_dataflow else "audiolm_jax.train", passed_on


def options(program: str) -> set[str]:
  """The flags that a program knows."""
  if program.startswith("launch/"):
    source = (ROOT / program).read_text()
    usage = r"--(\w+)" if program.endswith(".sh") else r'DEFINE_\w+\(\s*"(\w+)"'
    return set(re.findall(usage, source))
  is_package = (ROOT / program.replace(".", "/")).is_dir()
  module = importlib.import_module(f"{program}.__main__" if is_package else program)
  return {"help", *module.FLAGS}


FOUND = list(commands())


def test_there_are_commands_on_the_pages():
  assert len(FOUND) > 60
  assert {"audiolm_jax.train", "audiolm_jax.sample", "launch/slurm.sh"} <= {
    c.program for c in FOUND
  }


@pytest.mark.parametrize("program", sorted({p for c in FOUND for p, _ in split(c)}))
def test_every_flag_of_a_page_is_one_of_its_program(program):
  known = options(program)
  for command in FOUND:
    for of, arguments in split(command):
      given = set(re.findall(r"(?<![\w-])--([A-Za-z]\w*)(?![\w.])", arguments))
      unknown = {name for name in given if not {name, name.removeprefix("no")} & known}
      assert of != program or not unknown, f"{command.page}: {program} has no {unknown}"


def test_every_gin_binding_of_a_page_is_one_that_the_configurations_set():
  bindings = {(c.page, name) for c in FOUND for name in re.findall(r"--gin\.([\w.]+)", c.arguments)}
  assert len(bindings) > 20
  for page, name in bindings:
    *owner, field = name.split(".")
    there = re.search(rf"^\s*(?:[\w.]+\.)?{field} =", GIN, re.MULTILINE)
    assert there and all(part in GIN for part in owner), f"{page}: no configuration sets {name}"


def test_every_file_that_a_page_names_in_the_repository_exists():
  names = r"(?:gin_configs|launch|requirements|examples|tests|tasks|audiolm_jax)/[\w/.-]*\w\.\w+"
  written_by_the_reader = {
    "audiolm_jax/evaluation/zero_crossings.py",
    "audiolm_jax/evaluation/suites/noise.py",
    "tests/evaluation/test_zero_crossings.py",
  }
  for page in PAGES:
    named = set(re.findall(rf"(?<![\w./-])({names})", page.read_text())) - written_by_the_reader
    missing = {name for name in named if not (ROOT / name).exists()}
    assert not missing, f"{page.relative_to(ROOT)} names {missing}"


def python_blocks(page: Path) -> list[str]:
  return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def test_every_import_of_a_page_exists():
  checked = 0
  for page in PAGES:
    for block in python_blocks(page):
      for node in ast.walk(ast.parse(block)):
        if not isinstance(node, ast.ImportFrom) or "zero_crossings" in str(node.module):
          continue
        module = importlib.import_module(str(node.module))
        for alias in node.names:
          # A module of a package is an attribute once it has been imported.
          submodule = f"{node.module}.{alias.name}"
          found = hasattr(module, alias.name) or importlib.util.find_spec(submodule)
          assert found, f"{page}: {submodule}"
        checked += 1
  assert checked > 5


def test_the_metric_of_the_page_has_the_value_in_its_test(monkeypatch):
  metric, suite, check = python_blocks(ROOT / "docs/how-to/add-a-metric.md")
  module = types.ModuleType("audiolm_jax.evaluation.zero_crossings")
  exec(metric, module.__dict__)
  monkeypatch.setitem(sys.modules, module.__name__, module)
  names: dict = {}
  exec(suite, names)
  exec(check, names)
  names["test_a_tone_crosses_zero_twice_a_period"]()
  assert callable(names["run"])
