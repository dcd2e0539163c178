"""Scripts of `launch/` as modules."""

import importlib.util
from pathlib import Path

import pytest
from absl import flags

LAUNCH = Path(__file__).parents[2] / "launch"


@pytest.fixture(scope="session")
def load_script():
  """Loads a script without leaving its flags behind, which those of another may be named like."""

  def load(name: str):
    before = set(flags.FLAGS)
    spec = importlib.util.spec_from_file_location(name, LAUNCH / f"{name}.py")
    module = importlib.util.module_from_spec(spec)  # pyright: ignore[reportArgumentType]: it is not None
    spec.loader.exec_module(module)  # pyright: ignore[reportOptionalMemberAccess]: it is not None
    for flag in set(flags.FLAGS) - before:
      delattr(flags.FLAGS, flag)
    return module

  return load
