"""Compiled programs that a later process loads without tracing them again.

JAX's own cache is asked once a function is traced and lowered, which takes longer than loading
what it finds. A stored program is looked up by what it is made from instead, so a process in which
nothing is new traces nothing.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import os
import pickle
import platform
import secrets
import threading
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from audiolm_jax import compilation_cache
from audiolm_jax.errors import UserError
from audiolm_jax.files import atomic_write

_PACKAGE = Path(__file__).parent
# Settings that say where and how programs are kept, not what is in them.
_NOT_IN_PROGRAMS = ("cache", "log", "dump", "traceback")


class StoredProgram:
  """A function under `jax.jit` whose compiled programs are also kept on disk.

  It is `jax.jit` and no more while the compilation cache is off, on an accelerator, where an
  argument is committed to a device, and inside of another traced function.

  Args:
    function: what is compiled; reads nothing but its arguments and the constants of this package.
    static_argnums, donate_argnums: as of `jax.jit`. The `repr` of a static argument says all that
      is in it.
  """

  def __init__(
    self,
    function: Callable[..., Any],
    *,
    static_argnums: Sequence[int] = (),
    donate_argnums: Sequence[int] = (),
  ):
    functools.update_wrapper(self, function)
    self._function = function
    self._options = {"static_argnums": static_argnums, "donate_argnums": donate_argnums}
    self._jitted = jax.jit(function, **self._options)
    self._ready: dict[Any, concurrent.futures.Future[jax.stages.Compiled]] = {}
    self._lock = threading.Lock()

  def __call__(self, *args: Any) -> Any:
    if not is_on() or not _is_storable(args):
      return self._jitted(*args)
    return self._made(args, run_here=True).result()(*self._dynamic(args))

  def prepare(self, *args: Any) -> None:
    """Begins to load or compile in the background what a call with such arguments needs.

    Args:
      args: as of a call, or `jax.ShapeDtypeStruct` in place of arrays.
    """
    if is_on() and _is_storable(args):
      self._made(args, run_here=False)

  def __getattr__(self, name: str) -> Any:
    # `lower` and what else `jax.jit` offers.
    return getattr(self._jitted, name)

  def _made(self, args: Sequence[Any], *, run_here: bool) -> concurrent.futures.Future:
    statics = tuple(args[i] for i in self._options["static_argnums"])
    leaves, tree = jax.tree.flatten(self._dynamic(args))
    key = statics, tree, tuple(map(_signature, leaves))
    with self._lock:
      future = self._ready.get(key)
      if future is not None:
        return future
      if run_here:
        future = self._ready[key] = concurrent.futures.Future()
      else:
        shapes = jax.tree.map(_shape, args)
        future = self._ready[key] = _worker().submit(self._load_or_compile, key, shapes)
        return future
    try:
      future.set_result(self._load_or_compile(key, args))
    except BaseException as error:
      del self._ready[key]
      future.set_exception(error)
    return future

  def _load_or_compile(self, key: Any, args: Sequence[Any]) -> jax.stages.Compiled:
    statics, tree, signatures = key
    name = f"{self._function.__module__}.{self._function.__qualname__}"
    facts = (name, self._options, statics, str(tree), signatures, _environment())
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
    folder = compilation_cache.cache_folder()
    path = folder / "programs" / f"{name}-{digest}"  # type: ignore[operator]
    return _load(path) or self._compile(path, args)

  def _compile(self, path: Path, args: Sequence[Any]) -> jax.stages.Compiled:
    def function(*args: Any) -> Any:
      return self._function(*args)

    # A name that JAX's cache has never seen: what that loads cannot be written a second time.
    function.__name__ = f"{self._function.__name__}_{secrets.token_hex(8)}"
    compiled = jax.jit(function, **self._options).lower(*args).compile()
    from jax.experimental import serialize_executable

    content = pickle.dumps(serialize_executable.serialize(compiled))
    with contextlib.suppress(UserError, OSError):  # a full disk costs time, nothing else
      path.parent.mkdir(parents=True, exist_ok=True)
      with atomic_write(path) as file:
        file.write(hashlib.sha256(content).digest() + content)
    return compiled

  def _dynamic(self, args: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(x for i, x in enumerate(args) if i not in self._options["static_argnums"])


def _load(path: Path) -> jax.stages.Compiled | None:
  """The program in a file; None where there is none, or it is damaged."""
  from jax.experimental import serialize_executable

  try:
    content = path.read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
      return None
    return serialize_executable.deserialize_and_load(*pickle.loads(content[32:]))
  except (OSError, ValueError, RuntimeError, pickle.UnpicklingError):
    return None


def is_on() -> bool:
  """Whether programs are kept: the compilation cache is on, and the computing is on a CPU."""
  folder = compilation_cache.cache_folder()
  return (
    folder is not None
    and jax.config.jax_compilation_cache_dir == str(folder)
    and jax.default_backend() == "cpu"
  )


def _is_storable(args: Sequence[Any]) -> bool:
  return not any(
    isinstance(x, jax.core.Tracer) or (isinstance(x, jax.Array) and x.committed)
    for x in jax.tree.leaves(args)
  )


def _signature(leaf: Any) -> tuple[Any, ...]:
  return tuple(np.shape(leaf)), str(leaf.dtype), bool(getattr(leaf, "weak_type", False))


def _shape(leaf: Any) -> Any:
  """A leaf without its content, so that nothing holds an array until its program is compiled."""
  if isinstance(leaf, jax.Array | np.ndarray | np.generic):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=getattr(leaf, "weak_type", False))
  return leaf


@functools.cache
def _worker() -> concurrent.futures.ThreadPoolExecutor:
  # One thread: a compilation takes memory, and uses several processor cores by itself.
  return concurrent.futures.ThreadPoolExecutor(1, "programs")


def _environment() -> tuple[Any, ...]:
  """What a program depends on besides its function and arguments."""
  config = jax.config
  settings = [
    (name, getattr(config, name, value))
    for name, value in sorted(config.values.items())
    if not any(part in name for part in _NOT_IN_PROGRAMS)
  ]
  devices = [(d.platform, d.device_kind, d.id) for d in jax.devices()]
  return settings, devices, os.environ.get("XLA_FLAGS"), _versions()


@functools.cache
def _versions() -> tuple[Any, ...]:
  """Of Python, of the packages that make programs, and of every source file of this one."""
  source = hashlib.sha256()
  for path in sorted(_PACKAGE.rglob("*.py")):
    source.update(str(path.relative_to(_PACKAGE)).encode() + b"\0" + path.read_bytes())
  packages = tuple(metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy"))
  return platform.python_version(), packages, source.hexdigest()
