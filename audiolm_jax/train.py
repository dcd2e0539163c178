r"""Trains a codec, a semantic encoder, a stage or a detector, as configured by gin files.

  python -m audiolm_jax.train --gin_file=gin_configs/codec_tiny.gin \
    --gin_file=gin_configs/runs/audio_in_memory.gin \
    --gin.AUDIO_DIR="'recordings'" --gin.MODEL_DIR="'runs/codec'"

Later gin files override earlier files, and `--gin.NAME=VALUE` overrides all files. Strings are
quoted twice, as shown. The head of each file in gin_configs/ lists the required settings. Rerun the
same command to resume from the last checkpoint. Exit codes: 0 finished, 2 an error that you can
fix, 143 saved and ended after SIGTERM or Ctrl-C.

To train on several machines, run the same command on each machine with `--multiprocess`;
see launch/README.md.
"""

import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import logging

from audiolm_jax.core import compilation_cache
from audiolm_jax.core.command_line import flags, run_cli
from audiolm_jax.core.errors import ConfigError, UserError

# Exceptions of gin; the models raise UserErrors.
_GIN_ERRORS = (ValueError, TypeError, KeyError, RuntimeError, ImportError, OSError, SyntaxError)
# The job ends if a process sends no heartbeat for this number of seconds.
_HEARTBEAT_SECONDS = 30
_REPO = Path(__file__).resolve().parents[1]


def gin_flags() -> flags.FlagValues:
  """Returns the absl flags for the arguments of `resolve`."""
  found = flags.FlagValues()
  flags.DEFINE_multi_string(
    "gin_file", [], "Gin file; repeat for more, later files override.", flag_values=found
  )
  flags.DEFINE_multi_string(
    "gin_bindings", [], "A single binding; the same as --gin.NAME=VALUE.", flag_values=found
  )
  flags.DEFINE_list(
    "gin_search_paths", ["."], "Folders that are searched for gin files.", flag_values=found
  )
  return found


FLAGS = gin_flags()
flags.DEFINE_list(
  "seqio_additional_cache_dirs", [], "Folders with caches of SeqIO tasks.", flag_values=FLAGS
)
flags.DEFINE_string("tfds_data_dir", None, "Folder of TensorFlow Datasets.", flag_values=FLAGS)
flags.DEFINE_bool("dry_run", False, "Print the resolved configuration and exit.", flag_values=FLAGS)
flags.DEFINE_bool(
  "multiprocess",
  False,
  "Train together with other processes. On Cloud TPU, GKE and SLURM they are found automatically; "
  "elsewhere the next three flags are needed.",
  flag_values=FLAGS,
)
flags.DEFINE_string("coordinator_address", None, "host:port of process 0.", flag_values=FLAGS)
flags.DEFINE_integer("process_count", None, "Number of processes.", flag_values=FLAGS)
flags.DEFINE_integer("process_index", None, "Index of this process, from 0.", flag_values=FLAGS)


def main(argv: Sequence[str]) -> int:
  """Resolves the configuration, trains the model and returns the exit code."""
  del argv
  compilation_cache.enable()
  _join_other_processes()
  settings, text = resolve(FLAGS.gin_file, FLAGS.gin_bindings, FLAGS.gin_search_paths)
  _check_model_dir(settings["config"].model_dir)
  if FLAGS.dry_run:
    print(text)
    return 0
  _prepare_seqio()
  from audiolm_jax.trainables import run

  try:
    result = run.train(**settings, config_text=text)
  except BaseException as error:
    _leave_other_processes(error)
    raise
  return 0 if result.finished else 143


def resolve(
  gin_files: Sequence[str], bindings: Sequence[str] = (), search_paths: Sequence[str] = (".",)
) -> tuple[dict[str, Any], str]:
  """Returns the arguments of `run.train` from gin files, and the resolved configuration as text.

  Args:
    gin_files: paths of the gin files; later files override earlier files.
    bindings: gin bindings, such as "TRAIN_STEPS = 100"; they override the files.
    search_paths: folders in which gin files are searched.

  Raises:
    ConfigError: a file, name, parameter or macro does not exist, a required setting is missing, or
      a value is invalid.
  """
  import gin

  from audiolm_jax.trainables import run

  if not gin_files:
    raise ConfigError("give --gin_file, for example --gin_file=gin_configs/codec_tiny.gin")
  folders = [*search_paths, str(_REPO)]
  for path in gin_files:
    if not any(Path(folder, path).is_file() for folder in folders):
      raise ConfigError(f"gin file {path} does not exist in {', '.join(folders)}; check the path")
  for folder in folders:
    gin.add_config_file_search_path(folder)
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.FATAL)  # gin logs every path that it tries
  try:
    home = [re.sub(r"""(?<=['"])~(?=/)""", os.path.expanduser("~"), text) for text in bindings]
    gin.parse_config_files_and_bindings(list(gin_files), home, finalize_config=False)
    text = gin.config_str()
    missing = _missing(gin, run.train)
    if missing:
      names = " ".join(f"--gin.{name}=VALUE" for name in missing)
      raise ConfigError(f"required settings are missing: {names} (see the head of {gin_files[0]})")
    _check_macros_are_used(bindings, text)
    return dict(gin.get_bindings(run.train)), text
  except UserError as error:
    raise ConfigError(str(error).splitlines()[0]) from error  # gin appends lines with the location
  except _GIN_ERRORS as error:
    raise ConfigError(_in_one_line(error)) from error
  finally:
    gin.clear_config()
    logging.set_verbosity(verbosity)


def rewrite_gin_arguments(arguments: Sequence[str]) -> list[str]:
  """Rewrites `--gin.NAME=VALUE` as `--gin_bindings=NAME = VALUE`; keeps other arguments.

  Raises:
    ConfigError: an argument `--gin.NAME` has no value.
  """
  rewritten = []
  for argument in arguments:
    found = re.fullmatch(r"--gin\.([^=\s]+)=(.*)", argument, flags=re.DOTALL)
    if found:
      argument = f"--gin_bindings={found[1]} = {found[2]}"
    elif argument.startswith("--gin."):
      raise ConfigError(f"{argument!r} has no value; write --gin.NAME=VALUE")
    rewritten.append(argument)
  return rewritten


def _missing(gin: ModuleType, configurable: Callable[..., object]) -> list[str]:
  """Returns the names of required macros and parameters that are not set.

  Args:
    gin: the module gin, after the configuration is parsed.
    configurable: the function whose parameters are checked, with all configurables that are bound
      to its parameters.
  """
  missing: list[str] = []

  def walk(value: object, name: str) -> None:
    if isinstance(value, Mapping):
      value = list(value.values())
    if isinstance(value, (list, tuple)):
      for item in value:
        walk(item, name)
    selector = getattr(value, "scoped_selector", None)
    if selector is None:
      return
    scope, _, kind = selector.rpartition("/")
    if kind == "gin.constant":
      if scope == "gin.REQUIRED" and name not in missing:
        missing.append(name)
      return
    bindings = gin.get_bindings(selector, resolve_references=False)
    if kind == "gin.macro":
      walk(bindings["value"], scope) if bindings else missing.append(scope)
      return
    for parameter, bound in bindings.items():
      walk(bound, f"{selector}.{parameter}")

  for parameter, bound in gin.get_bindings(configurable, resolve_references=False).items():
    walk(bound, f"train.{parameter}")
  return missing


def _check_macros_are_used(bindings: Sequence[str], text: str) -> None:
  for binding in bindings:
    name = binding.split("=")[0].strip()
    if re.fullmatch(r"\w+", name) and not re.search(rf"%{name}\b", text):
      raise ConfigError(
        f"the given gin files do not use the macro {name}; their heads list the macros"
      )


def _in_one_line(error: BaseException) -> str:
  text = " ".join(part.strip() for part in str(error).splitlines() if part.strip())
  text = text if len(text) <= 300 else text[:297] + "..."
  if "malformed node" in text or "Failed to parse token" in text:
    text += "; text is quoted twice: --gin.NAME=\"'text'\""
  return f"gin: {text}"


def _join_other_processes() -> None:
  place = (FLAGS.coordinator_address, FLAGS.process_count, FLAGS.process_index)
  if not FLAGS.multiprocess:
    if place != (None, None, None):
      raise UserError(
        "--coordinator_address, --process_count and --process_index need --multiprocess"
      )
    return
  import jax

  if None in place and place != (None, None, None):
    raise UserError(
      "give all of --coordinator_address, --process_count and --process_index, or none"
    )
  try:
    jax.distributed.initialize(*place, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
  except (ValueError, TypeError) as error:
    if place != (None, None, None):
      raise UserError(f"--multiprocess: {error}") from error
    raise UserError(
      "--multiprocess found neither Cloud TPU nor GKE nor SLURM; give --coordinator_address, "
      "--process_count and --process_index"
    ) from error


def _check_model_dir(model_dir: str | os.PathLike[str]) -> None:
  if "://" in str(model_dir):
    raise ConfigError(
      f"MODEL_DIR {model_dir} is not a folder; mount the bucket and give its mount point, see "
      "launch/README.md"
    )


def _leave_other_processes(error: BaseException) -> None:
  """Ends this process immediately after `error` if the job has several processes.

  A normal exit would wait for the other processes, but they may have ended or may wait for this
  process. The exit code is 2 for a `UserError`, else 1.
  """
  import jax

  if jax.process_count() == 1:
    return
  known = isinstance(error, UserError)
  if not known:
    traceback.print_exception(error)
  print(
    f"error: process {jax.process_index()} of {jax.process_count()} ends: "
    + (str(error) if known else "it or another process of the job failed (see above)")
    + "; rerun the same command in every process to resume from the last checkpoint",
    file=sys.stderr,
    flush=True,
  )
  os._exit(2 if known else 1)


def _prepare_seqio() -> None:
  if FLAGS.seqio_additional_cache_dirs or FLAGS.tfds_data_dir:
    from audiolm_jax.data import seqio_batches

    seqio_batches.set_data_dirs(FLAGS.seqio_additional_cache_dirs or (), FLAGS.tfds_data_dir)


def run_gin_cli(main: Callable[[Sequence[str]], int | None], flag_values: flags.FlagValues) -> None:
  """Calls `run_cli` for a command that also accepts arguments `--gin.NAME=VALUE`."""
  try:
    sys.argv = rewrite_gin_arguments(sys.argv)
  except ConfigError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
  run_cli(main, flag_values)


if __name__ == "__main__":
  run_gin_cli(main, FLAGS)
