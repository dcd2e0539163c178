"""Compiled programs that are stored on disk."""

import dataclasses
import hashlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from audiolm_jax.core import compilation_cache
from audiolm_jax.io import stored_program
from audiolm_jax.io.stored_program import StoredProgram
from audiolm_jax.sampling import loop
from tests.conftest import melody


@dataclasses.dataclass(frozen=True)
class Slope:
  value: float
  beside: tuple[object, ...] = ()


@dataclasses.dataclass(frozen=True)
class Foreign:
  pass


Slope.__module__ = stored_program.__name__  # as a configuration of the package


traced = []


def line(slope, x, offset):
  traced.append(slope)
  return slope.value * x["x"] + offset


def new_line():
  """Returns a program without compiled functions, as in a new process."""
  return StoredProgram(line, static_argnums=(0,), donate_argnums=(2,))


def drawn_line(program, slope=2.0, length=3):
  x = {"x": np.arange(length, dtype=np.float32)}
  return np.asarray(program(Slope(slope), x, jnp.ones(length))).tolist()


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """Enables the cache and yields the folder of programs."""
  monkeypatch.setenv("AUDIOLM_JAX_CACHE", str(tmp_path))
  before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]: JAX adds it
  folder = compilation_cache.cache_folder()
  jax.config.update("jax_compilation_cache_dir", str(folder))
  traced.clear()
  yield folder / "programs"  # pyright: ignore[reportOptionalOperand]: it is not None
  jax.config.update("jax_compilation_cache_dir", before)


def test_a_stored_program_is_loaded_without_tracing(cache):
  assert drawn_line(new_line()) == [1.0, 3.0, 5.0]
  assert len(traced) == 1 and len(list(cache.iterdir())) == 1
  assert drawn_line(new_line()) == [1.0, 3.0, 5.0]
  assert len(traced) == 1


def test_other_statics_shapes_sources_and_settings_are_other_programs(cache, monkeypatch):
  drawn_line(new_line())
  assert drawn_line(new_line(), slope=3.0) == [1.0, 4.0, 7.0]
  assert drawn_line(new_line(), length=2) == [1.0, 3.0]
  monkeypatch.setattr(stored_program, "_versions", lambda: "another source file")
  assert drawn_line(new_line()) == [1.0, 3.0, 5.0]
  with monkeypatch.context() as context:
    context.setenv("XLA_FLAGS", "--another")
    assert drawn_line(new_line()) == [1.0, 3.0, 5.0]
  assert len(traced) == 5 and len(list(cache.iterdir())) == 5


def damaged(content):
  return content[:-1] + bytes([content[-1] ^ 1])


def truncated(content):
  return content[:100]


def empty(content):
  return b""


def of_something_else(content):
  return hashlib.sha256(b"no program").digest() + b"no program"


@pytest.mark.parametrize("spoil", [damaged, truncated, empty, of_something_else])
def test_a_damaged_entry_is_compiled_again(cache, spoil):
  drawn_line(new_line())
  (entry,) = cache.iterdir()
  entry.write_bytes(spoil(entry.read_bytes()))
  assert drawn_line(new_line()) == [1.0, 3.0, 5.0]
  assert len(traced) == 2
  drawn_line(new_line())
  assert len(traced) == 2


def test_nothing_is_stored_where_the_cache_is_off_or_cannot_be_written(cache, monkeypatch):
  cache.parent.mkdir(parents=True)
  cache.write_text("a file in the place of the folder")
  assert drawn_line(new_line()) == [1.0, 3.0, 5.0]
  assert cache.read_text() == "a file in the place of the folder"
  cache.unlink()
  monkeypatch.setenv("AUDIOLM_JAX_CACHE", "off")
  assert drawn_line(new_line()) == [1.0, 3.0, 5.0]
  assert not cache.exists()


def test_traced_and_committed_arguments_go_to_jit(cache):
  program = new_line()
  x = {"x": np.ones(2, np.float32)}
  assert jax.jit(lambda y: program(Slope(2.0), x, y))(np.ones(2)).tolist() == [3.0, 3.0]
  committed = jax.device_put(np.ones(2, np.float32), jax.devices()[0])
  assert program(Slope(2.0), x, committed).tolist() == [3.0, 3.0]
  assert not cache.exists()


@pytest.mark.parametrize("static", [Foreign(), Slope(2.0, (Foreign(),))])
def test_classes_of_other_packages_go_to_jit(cache, static):
  program = StoredProgram(lambda static, x: x + 1, static_argnums=(0,))
  program.prepare(static, np.ones(2, np.float32))
  assert program(static, np.ones(2, np.float32)).tolist() == [2.0, 2.0]
  assert not cache.exists()


def test_a_prepared_program_is_not_made_again_by_its_call(cache):
  program = new_line()
  shape = np.broadcast_to(np.float32(0), 3)
  program.prepare(Slope(2.0), {"x": shape}, shape)
  assert drawn_line(program) == [1.0, 3.0, 5.0]
  wait_for_background()
  assert len(traced) == 1 and len(list(cache.iterdir())) == 1


def test_an_error_in_the_background_is_raised_by_the_call(cache):
  program = StoredProgram(lambda x: x.reshape(7))
  program.prepare(np.ones(3, np.float32))
  wait_for_background()
  with pytest.raises(TypeError, match="reshape"):
    program(np.ones(3, np.float32))


def wait_for_background():
  while stored_program._BACKGROUND._running:
    time.sleep(0.01)


def forget_programs():
  for program in (loop.prefill, loop.repeated, loop.decode):
    program._ready.clear()


def test_a_rehearsal_prepares_what_sampling_runs_and_changes_no_sound(
  cache, miniature_bundle, monkeypatch
):
  forget_programs()
  settings = {"duration": 0.9, "seed": 3, "num_samples": 3}
  # With collapsed repeats the draws decide lengths, and nothing is rehearsed.
  stages = {
    name: dataclasses.replace(stage, spec=dataclasses.replace(stage.spec, collapse_repeats=False))
    for name, stage in miniature_bundle.stages.items()
  }
  bundle = dataclasses.replace(miniature_bundle, stages=stages)
  asked = melody(0.8), 16_000
  made = bundle.continue_audio(*asked, **settings)
  wait_for_background()
  assert any("_decode_fn" in path.name for path in cache.iterdir())
  forget_programs()
  prepared, called = set(), set()
  prepare, call = StoredProgram.prepare, StoredProgram.__call__

  def noting(seen, method):
    def run(program, *args):
      seen.add((program, program._key(args)))
      return method(program, *args)

    return run

  with monkeypatch.context() as context:
    context.setattr(StoredProgram, "prepare", noting(prepared, prepare))
    context.setattr(StoredProgram, "__call__", noting(called, call))
    bundle.continue_audio(*asked, **settings)
  loops = {loop.prefill, loop.decode}
  assert {c for c in called if c[0] in loops} == {p for p in prepared if p[0] in loops} != set()
  monkeypatch.setenv("AUDIOLM_JAX_CACHE", "off")
  plain = bundle.continue_audio(*asked, **settings)
  np.testing.assert_array_equal(made.waveform, plain.waveform)
  np.testing.assert_array_equal(made.tokens.codes, plain.tokens.codes)
