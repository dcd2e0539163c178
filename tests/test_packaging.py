"""The metadata of the package agree with the files of the repository."""

import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import Marker

REPOSITORY = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
DYNAMIC = PYPROJECT["tool"]["setuptools"]["dynamic"]
EXTRAS = DYNAMIC["optional-dependencies"]


def requirements(path):
  """The lines of a file of requirements and of those that it includes."""
  found = []
  for line in path.read_text().splitlines():
    line = line.split(" #")[0].strip()
    if line.startswith("-r "):
      found += requirements(path.parent / line[3:])
    elif line and not line.startswith("#"):
      found.append(line)
  return found


def test_each_file_of_extras_is_an_extra_of_its_name():
  files = {
    p.stem: f"requirements/extras/{p.name}" for p in REPOSITORY.glob("requirements/extras/*")
  }
  assert set(files) == set(EXTRAS)
  for name, path in files.items():
    assert EXTRAS[name]["file"][0] == path


def test_what_extras_are_made_of_includes_no_other_file():
  paths = {path for extra in EXTRAS.values() for path in extra["file"]}
  for path in paths | set(DYNAMIC["dependencies"]["file"]):
    assert "-r " not in (REPOSITORY / path).read_text(), f"{path}: setuptools reads no -r"


def test_no_package_has_two_ranges():
  ranges = {}
  for path in REPOSITORY.glob("requirements/**/*.txt"):
    if path.name.endswith(".lock.txt"):
      continue
    for line in requirements(path):
      name, limits = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?(.*)", line).groups()  # pyright: ignore[reportOptionalMemberAccess]: it is not None
      if limits:
        ranges.setdefault(name, set()).add(limits)
  assert len(ranges) > 20
  assert {name: found for name, found in ranges.items() if len(found) > 1} == {}


def name_of(requirement):
  return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()  # pyright: ignore[reportOptionalSubscript]: it is not None


@pytest.mark.parametrize("path", sorted(REPOSITORY.glob("requirements/*.lock.txt")), ids=str)
def test_a_lock_file_has_the_hashes_of_all_packages_and_those_of_the_requirements(path):
  packages = {}
  text = path.read_text().replace("\\\n", " ")
  for line in text.splitlines():
    if not line.startswith("#"):
      name, version, hashes = re.fullmatch(r"([\w.-]+)==(\S+)((?: .*)?)", line).groups()  # pyright: ignore[reportOptionalMemberAccess]: it is not None
      packages[name_of(name)] = version
      assert re.search(r" --hash=sha256:[0-9a-f]{64}\b", hashes), line
  base = "requirements.txt" if path.name.startswith("full") else "requirements/sample.txt"
  for line in requirements(REPOSITORY / base):
    assert name_of(line) in packages, line
  # With --require-hashes, pip also refuses a dependency that is not listed.
  for name in packages:
    try:
      needed = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
      continue
    for line in needed:
      limits, _, condition = line.partition(";")
      if not condition or _holds(condition, path):
        assert name_of(limits) in packages, f"{name} needs {line}"


def _holds(condition, lock):
  python = re.search(r"py3(\d+)", lock.name)[1]  # pyright: ignore[reportOptionalSubscript]: it is not None
  version = {"python_version": f"3.{python}", "python_full_version": f"3.{python}.0"}
  return Marker(condition).evaluate(version | {"extra": ""})


@pytest.mark.parametrize("name", ["train", "beam", "eval", "plot", "demo"])
def test_the_full_install_has_the_extra(name):
  everything = requirements(REPOSITORY / "requirements.txt")
  for path in EXTRAS[name]["file"]:
    assert set(requirements(REPOSITORY / path)) <= set(everything)


def test_every_range_has_an_upper_bound():
  for extra in EXTRAS.values():
    for path in extra["file"]:
      for line in requirements(REPOSITORY / path):
        assert re.search(r"<|==|^jax\[", line), line


def test_everything_that_runs_need_is_package_data():
  """Files beside modules that git knows: configurations, bundles, the listening page."""
  listed = subprocess.run(
    ["git", "ls-files", "audiolm_jax", "gin_configs", "tasks"],
    cwd=REPOSITORY, capture_output=True, text=True,
  )  # fmt: skip
  if listed.returncode:
    pytest.skip("no git checkout")
  data = PYPROJECT["tool"]["setuptools"]["package-data"]
  shipped = {p for top, globs in data.items() for g in globs for p in (REPOSITORY / top).glob(g)}
  paths = [REPOSITORY / line for line in listed.stdout.splitlines()]
  missing = [p for p in paths if p.suffix != ".py" and p not in shipped]
  assert len(paths) > 200 and missing == []
