"""Compiled programs that later processes load without tracing them again.

JAX computes the key of its own cache from the lowered function. Tracing and lowering a function
takes longer than loading the compiled program. The key of a stored program is computed from source
code, arguments and settings instead. Thus, a process whose programs are all stored traces no
function.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import os
import pickle
import platform
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import jax
import numpy as np
from jax import core
from jax.stages import Compiled, Wrapped

from audiolm_jax.core import compilation_cache, forks
from audiolm_jax.core.errors import UserError
from audiolm_jax.io.files import atomic_write

Result = TypeVar("Result")
# Static arguments, tree structure of the other arguments, and the shape and type of each array.
_Key = tuple[object, ...]

_PACKAGE = Path(__file__).parents[1]
# Settings with one of these texts in their name affect storage and logging, but not the programs.
_NOT_IN_PROGRAMS = ("cache", "log", "dump", "traceback")


class StoredProgram(Generic[Result]):
  """A function under `jax.jit` whose compiled programs are also stored on disk.

  A program is not stored in these cases: JAX does not use the folder of `compilation_cache`; JAX
  runs on an accelerator; the call is inside another traced function; an argument is committed to a
  device; or a leaf of an argument is or contains a dataclass of another package. The key of a
  program includes the source code of this package only.

  Args:
    function: the function to compile; it must read only its arguments and constants of this
      package.
    static_argnums: see `jax.jit`. The `repr` of a static argument must include its whole content.
    donate_argnums: see `jax.jit`.
  """

  def __init__(
    self,
    function: Callable[..., Result],
    *,
    static_argnums: Sequence[int] = (),
    donate_argnums: Sequence[int] = (),
  ):
    functools.update_wrapper(self, function)
    self._function = function
    self._static, self._donated = tuple(static_argnums), tuple(donate_argnums)
    self._jitted = self._jit(function)
    self._ready: dict[_Key, Future[Compiled]] = {}
    self._lock = threading.Lock()

  def __call__(self, *args: object) -> Result:
    forks.check()
    if not is_on() or not _is_storable(args):
      return cast(Result, self._jitted(*args))
    key = self._key(args)
    with self._lock:
      waiting = self._ready.get(key)
      # If the program still waits in the background queue, this thread loads or compiles it.
      make_here = waiting is None or waiting.cancel()
      if waiting is None or make_here:
        future = self._ready[key] = Future()
        future.set_running_or_notify_cancel()
      else:
        future = waiting
    if make_here:
      self._make(future, key, args)
    return future.result()(*self._dynamic(args))

  def prepare(self, *args: object) -> None:
    """Starts to load or compile, in the background, the program that a call with `args` needs.

    Does nothing in the cases in which programs are not stored, see `StoredProgram`.

    Args:
      args: the arguments of the call; only the shapes and types of arrays are used.
    """
    forks.check()
    if not is_on() or not _is_storable(args):
      return
    key = self._key(args)
    with self._lock:
      if key in self._ready:
        return
      future = self._ready[key] = Future()
    shapes = jax.tree.map(_shape, args)

    def make() -> None:
      if future.set_running_or_notify_cancel():
        self._make(future, key, shapes)

    _BACKGROUND.add(make)

  def __getattr__(self, name: str) -> Any:
    # Returns `lower` and the other attributes of a jitted function.
    return getattr(self._jitted, name)

  def _key(self, args: Sequence[object]) -> _Key:
    statics = tuple(args[i] for i in self._static)
    flat = cast("tuple[list[jax.Array], object]", jax.tree.flatten(self._dynamic(args)))  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
    leaves, tree = flat
    return statics, tree, tuple(map(_signature, leaves))

  def _make(self, future: "Future[Compiled]", key: _Key, args: Sequence[object]) -> None:
    try:
      future.set_result(self._load_or_compile(key, args))
    except BaseException as error:  # `result` raises the error in the calling thread
      with self._lock:
        del self._ready[key]
      future.set_exception(error)

  def _load_or_compile(self, key: _Key, args: Sequence[object]) -> Compiled:
    statics, tree, signatures = key
    name = f"{self._function.__module__}.{self._function.__qualname__}"
    facts = (name, self._static, self._donated, statics, str(tree), signatures, _environment())
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
    folder = compilation_cache.cache_folder()
    assert folder is not None  # `is_on` was true
    path = folder / "programs" / f"{name}-{digest}"
    return _load(path) or self._compile(path, args)

  def _compile(self, path: Path, args: Sequence[object]) -> Compiled:
    def function(*args: object) -> Result:
      return self._function(*args)

    # With a unique name, JAX compiles and does not load the program from its own cache; a loaded
    # program cannot be serialized again.
    function.__name__ = f"{self._function.__name__}_{secrets.token_hex(8)}"
    lowered = self._jit(function).lower(*args)  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
    with _COMPILING:
      compiled = lowered.compile()  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
    from jax.experimental import serialize_executable

    content = pickle.dumps(serialize_executable.serialize(compiled))
    with contextlib.suppress(UserError, OSError):  # then later processes compile again
      path.parent.mkdir(parents=True, exist_ok=True)
      with atomic_write(path) as file:
        file.write(hashlib.sha256(content).digest() + content)
    return compiled

  def _dynamic(self, args: Sequence[object]) -> tuple[object, ...]:
    return tuple(x for i, x in enumerate(args) if i not in self._static)

  def _jit(self, function: Callable[..., Result]) -> Wrapped:
    return jax.jit(function, static_argnums=self._static, donate_argnums=self._donated)  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types


def _load(path: Path) -> Compiled | None:
  """Loads a stored program; returns None if the file is missing or damaged."""
  from jax.experimental import serialize_executable

  try:
    content = path.read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
      return None
    return serialize_executable.deserialize_and_load(*pickle.loads(content[32:]))  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
  except Exception:  # unpickling can raise any exception
    return None


def is_on() -> bool:
  """Returns whether JAX runs on a CPU and uses the folder of `compilation_cache`."""
  folder = compilation_cache.cache_folder()
  return (
    folder is not None
    and getattr(jax.config, "jax_compilation_cache_dir", None) == str(folder)
    and jax.default_backend() == "cpu"
  )


def _is_storable(args: Sequence[object]) -> bool:
  return not any(
    isinstance(x, core.Tracer) or (isinstance(x, jax.Array) and x.committed) or _is_foreign(x)
    for x in jax.tree.leaves(args)
  )


def _is_foreign(x: object) -> bool:
  """Returns whether `x` is or contains a dataclass that is defined in another package."""
  if not dataclasses.is_dataclass(x):
    return False
  fields = [getattr(x, field.name) for field in dataclasses.fields(x)]
  own = type(x).__module__.startswith(f"{_PACKAGE.name}.")
  return not own or any(map(_is_foreign, jax.tree.leaves(fields)))


def _signature(leaf: jax.Array | np.ndarray | np.generic) -> tuple[object, ...]:
  return tuple(np.shape(leaf)), str(leaf.dtype), bool(getattr(leaf, "weak_type", False))


def _shape(leaf: object) -> object:
  """Replaces an array by its shape and type, so that compilation does not keep the array alive."""
  if isinstance(leaf, jax.Array | np.ndarray | np.generic):
    leaf = cast("jax.Array | np.ndarray", leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=getattr(leaf, "weak_type", False))
  return leaf


class _Background:
  """Runs tasks one by one in a background thread, until the main thread has ended."""

  def __init__(self):
    self._tasks: collections.deque[Callable[[], None]] = collections.deque()
    self._lock = threading.Lock()
    self._running = False

  def add(self, task: Callable[[], None]) -> None:
    with self._lock:
      self._tasks.append(task)
      if not self._running:
        self._running = True
        threading.Thread(target=self._run, name="programs").start()

  def _run(self) -> None:
    while True:
      with self._lock:
        if not self._tasks or not threading.main_thread().is_alive():
          self._running = False
          return
        task = self._tasks.popleft()
      task()


_BACKGROUND = _Background()
# A compilation needs much memory and several processor cores, so only one compilation runs at a
# time. During a compilation, other programs can be traced or run.
_COMPILING = threading.Lock()


def _environment() -> tuple[object, ...]:
  """Returns the settings, devices and versions on which compiled programs depend."""
  config, defaults = jax.config, cast("dict[str, object]", jax.config.values)  # pyright: ignore[reportUnknownMemberType]: JAX leaves out types
  settings: list[tuple[str, object]] = [
    (name, getattr(config, name, default))
    for name, default in sorted(defaults.items())
    if not any(part in name for part in _NOT_IN_PROGRAMS)
  ]
  devices = [f"{d.platform} {d.device_kind} {d.id}" for d in jax.devices()]  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]: JAX leaves out types
  return settings, devices, os.environ.get("XLA_FLAGS"), _versions()


@functools.cache
def _versions() -> tuple[object, ...]:
  """Returns the versions of Python, JAX, Flax and NumPy, and a hash of the code of this package."""
  source = hashlib.sha256()
  for path in sorted(_PACKAGE.rglob("*.py")):
    source.update(str(path.relative_to(_PACKAGE)).encode() + b"\0" + path.read_bytes())
  packages = tuple(metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy"))
  return platform.python_version(), packages, source.hexdigest()
