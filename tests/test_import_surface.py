"""What the package itself exports: each name exists, is documented, and loads nothing too early."""

import subprocess
import sys
from pathlib import Path

import pytest

import audiolm_jax
from audiolm_jax.bundles import save_bundle

REFERENCE = Path(__file__).parents[1] / "docs" / "reference" / "api.md"


def in_fresh_process(program):
  done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done.stdout.strip()


def test_each_exported_name_can_be_imported_in_a_fresh_process():
  program = (
    "import audiolm_jax, sys\n"
    "from audiolm_jax import *\n"
    "for name in audiolm_jax.__all__:\n"
    "  assert globals()[name].__doc__, name\n"
    "print(set(audiolm_jax.__all__) <= set(dir(audiolm_jax)))"
  )
  assert in_fresh_process(program) == "True"


@pytest.mark.parametrize("name", audiolm_jax.__all__)
def test_the_reference_names_what_the_package_exports(name):
  assert f"`{name}`" in REFERENCE.read_text()


def test_a_name_that_is_not_exported_is_an_attribute_error():
  with pytest.raises(AttributeError, match="no_such_name"):
    audiolm_jax.no_such_name  # noqa: B018


def test_sampling_imports_neither_tensorflow_nor_seqio_nor_gin(miniature_bundle, tmp_path):
  folder = save_bundle(miniature_bundle, tmp_path / "mini")
  program = (
    "import sys, audiolm_jax\n"
    f"bundle = audiolm_jax.load_bundle({str(folder)!r})\n"
    "made = bundle.continue_audio(None, 16000, duration=0.5, mode='unconditional')\n"
    "heavy = 'tensorflow seqio gin orbax clu matplotlib torch apache_beam'.split()\n"
    "print(made.waveform.shape, [name for name in heavy if name in sys.modules])"
  )
  assert in_fresh_process(program) == "(8000,) []"
