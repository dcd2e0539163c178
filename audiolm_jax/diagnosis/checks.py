"""Checks all requirements of sampling on a machine: packages, memory, devices and bundles."""

import dataclasses
import enum
import importlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from audiolm_jax.core import allocator, compilation_cache, environment
from audiolm_jax.core.errors import UserError
from audiolm_jax.core.version import __version__

# The distribution (name for pip) of each required module.
NEEDED = {
  "jax": "jax",
  "jaxlib": "jaxlib",
  "flax": "flax",
  "numpy": "numpy",
  "safetensors": "safetensors",
  "soundfile": "soundfile",
  "soxr": "soxr",
  "absl": "absl-py",
  "tqdm": "tqdm",
  "jaxtyping": "jaxtyping",
}
# The distributions of each extra, as in requirements/extras/, and their purpose.
OPTIONAL = {
  "train": (
    "optax orbax-checkpoint gin-config clu tensorboard tensorflow seqio sentencepiece fsspec "
    "google-crc32c importlib_resources matplotlib",
    "training",
  ),
  "beam": ("apache-beam", "cache_tokens --runner"),
  "eval": ("pystoi librosa pocketsphinx matplotlib", "some measures of eval"),
  "measures": (
    "pesq ai-edge-litert faster-whisper whisper-normalizer speechmos onnxruntime av pyspellchecker",
    "PESQ, Lyra, Whisper, DNSMOS, AAC and dictionaries in eval",
  ),
  "watermark": ("scikit-network", "make_watermark"),
  "c2pa": ("c2pa-python", "sample --c2pa_certificate"),
  "plot": ("matplotlib", "plots"),
  "text": ("num2words", "numbers in texts to speak"),
  "notebooks": ("jupyterlab matplotlib", "the notebooks"),
  "demo": ("gradio matplotlib", "the live demo"),
  "lyra": ("tflite", "convert --from lyra_v2"),
  "hub": ("huggingface_hub", "bundles push and pull"),
  "gcs": ("gcsfs", "files at gs://"),
  "s3": ("s3fs", "files at s3://"),
}
_LEAST_MEMORY = 1 << 30  # bytes; sampling with a shipped bundle takes 0.7 GB
_SECONDS = 0.4
_CHECKOUT = Path(__file__).resolve().parents[2]


class Status(enum.StrEnum):
  """The result of a check; only BROKEN means that sampling does not work."""

  OK = "ok"
  ABSENT = "absent"
  WARNING = "warning"
  BROKEN = "broken"


@dataclasses.dataclass(frozen=True)
class Check:
  """The result of one check.

  Attributes:
    name: name of the part that was checked.
    status: the result.
    found: versions, sizes or the error, in one line.
    fix: how to fix a problem.
  """

  name: str
  status: Status
  found: str
  fix: str = ""


def run_checks(bundle: str) -> Iterator[Check]:
  """Yields the results of all checks, fast checks first; skips checks that need a broken part.

  Args:
    bundle: name or folder of the bundle to sample with.
  """
  yield Check("audiolm_jax", Status.OK, f"{__version__}, {Path(__file__).parents[1]}")
  yield Check("python", Status.OK, f"{platform.python_version()}, {platform.platform()}")
  settings = _check_environment()
  yield settings
  if settings.status is Status.BROKEN:
    return
  packages = [_check_needed(module, name) for module, name in NEEDED.items()]
  yield from packages
  yield from check_optional()
  yield _check_memory()
  yield check_allocator()
  yield _check_cache()
  if any(check.status is Status.BROKEN for check in packages):
    return
  devices = _check_devices()
  yield devices
  if devices.status is Status.BROKEN:
    return
  yield from _check_bundles(bundle)


def _check_environment() -> Check:
  """Checks the environment variables that JAX reads; wrong values can make its import fail."""
  try:
    environment.check()
  except environment.SettingError as error:
    return Check("environment", Status.BROKEN, error.reason, error.fix)
  except ImportError:  # jax is missing, which another check reports
    return Check("environment", Status.WARNING, "unknown without jax", "install jax first")
  chosen = [f"{name}={os.environ[name]}" for name in sorted(os.environ) if name.startswith("JAX_")]
  return Check("environment", Status.OK, " ".join(chosen) or "no variable of JAX is set")


def _check_needed(module: str, distribution: str) -> Check:
  try:
    importlib.import_module(module)
    return Check(distribution, Status.OK, metadata.version(distribution))
  except ModuleNotFoundError as error:
    found = f"not installed ({error})"
  except Exception as error:  # a shared library does not load, or versions are incompatible
    found = f"does not load: {_one_line(error)}"
  return Check(distribution, Status.BROKEN, found, f"pip install --force-reinstall {_target()}")


def check_optional() -> Iterator[Check]:
  """Yields a check for each extra of the package."""
  for extra, (distributions, purpose) in OPTIONAL.items():
    installed, missing = [], []
    for name in distributions.split():
      try:
        installed.append(f"{name} {metadata.version(name)}")
      except metadata.PackageNotFoundError:
        missing.append(name)
    if missing:
      found = f"not installed: {', '.join(missing)}; needed for {purpose}"
      yield Check(f"extra {extra}", Status.ABSENT, found, f"pip install {_target(extra)}")
    else:
      yield Check(f"extra {extra}", Status.OK, ", ".join(installed))


def _target(extra: str = "") -> str:
  """Returns the argument of pip install: the path of this checkout, else the package's name."""
  base = str(_CHECKOUT) if (_CHECKOUT / "pyproject.toml").is_file() else "audiolm_jax"
  return f'"{base}[{extra}]"' if extra else f'"{base}"'


def _check_memory() -> Check:
  available = available_memory()
  if available is None:
    return Check("memory", Status.OK, "unknown; this system does not report it")
  found = f"{available / 2**30:.1f} GiB free"
  if available < _LEAST_MEMORY:
    return Check("memory", Status.WARNING, found, "end other programs; a small bundle needs 1 GiB")
  return Check("memory", Status.OK, found)


def available_memory() -> int | None:
  """Returns the bytes of free main memory; None if the system does not report them."""
  try:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
      if line.startswith("MemAvailable:"):
        return int(line.split()[1]) << 10
  except (OSError, ValueError):
    pass
  return None


def check_allocator() -> Check:
  """Tunes the memory allocator as all commands do, and checks whether it keeps freed memory."""
  name = "memory allocator"
  try:
    version = allocator.tune_allocator()
  except allocator.AllocatorError as error:
    return Check(name, Status.ABSENT, f"not tuned: {error}", error.fix)
  return Check(name, Status.OK, f"glibc {version} keeps freed memory")


def _check_cache() -> Check:
  name = "compilation cache"
  chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  try:
    folder = Path(chosen) if chosen else compilation_cache.cache_folder()
  except metadata.PackageNotFoundError:  # jaxlib is missing, which another check reports
    return Check(name, Status.WARNING, "unknown without jaxlib", "install jaxlib first")
  if folder is None:
    if compilation_cache.is_off():
      return Check(name, Status.ABSENT, "off", "unset AUDIOLM_JAX_CACHE for faster starts")
    fix = "set AUDIOLM_JAX_CACHE to a folder that you own, for faster starts"
    return Check(name, Status.ABSENT, "off, because this user has no home folder", fix)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
    sizes = [path.stat().st_size for path in folder.iterdir()]
  except OSError as error:
    fix = "set AUDIOLM_JAX_CACHE to a writable folder"
    return Check(name, Status.WARNING, f"{folder}: {error.strerror or error}", fix)
  return Check(name, Status.OK, f"{folder}, {len(sizes)} files, {sum(sizes) / 1e6:.0f} MB")


def _check_devices() -> Check:
  """Checks that JAX finds devices and that the first device multiplies matrices correctly."""
  compilation_cache.enable()
  import jax
  import jax.numpy as jnp

  try:
    devices = jax.devices()
    ones = jnp.ones((8, 8))
    product = float(jax.jit(lambda x: (x @ x).sum())(ones))
  except Exception as error:  # the exception types differ between backends
    fix = "set JAX_PLATFORMS=cpu to continue without the accelerator, or reinstall its driver"
    return Check("devices", Status.BROKEN, _one_line(error), fix)
  found = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
  limit = (devices[0].memory_stats() or {}).get("bytes_limit")
  if limit:
    found += f", {limit / 2**30:.1f} GiB each"
  if product != 512:
    fix = "reinstall jax and the accelerator's driver; its arithmetic is wrong"
    return Check("devices", Status.BROKEN, f"{found}: 8 x 8 ones squared sum to {product}", fix)
  if devices[0].platform == "cpu" and shutil.which("nvidia-smi"):
    fix = f"to use the GPU: pip install {_target('cuda12')}"
    return Check("devices", Status.WARNING, f"{found}; an NVIDIA GPU is not used", fix)
  return Check("devices", Status.OK, found)


def _check_bundles(chosen: str) -> Iterator[Check]:
  """Loads all shipped bundles and the chosen bundle, and samples with the chosen bundle."""
  from audiolm_jax import bundles

  for name in dict.fromkeys([*bundles.list_bundles(), chosen]):
    label = f"bundle {Path(name).name}"
    # Damage of another bundle does not prevent sampling with the chosen bundle.
    failed = Status.BROKEN if name == chosen else Status.WARNING
    try:
      bundle = bundles.load_bundle(name)
    except UserError as error:
      fix = "install the package again, or select another bundle with --bundle"
      yield Check(label, failed, str(error), fix)
      continue
    stages = ", ".join(bundle.stages) or "none"
    yield Check(label, Status.OK, f"loads; token hash {bundle.token_hash}, stages {stages}")
    if name != chosen:
      continue
    started = time.perf_counter()
    try:
      result = bundle.continue_audio(
        None, bundle.sample_rate, duration=_SECONDS, mode="unconditional"
      )
    except UserError as error:
      yield Check("sampling", Status.BROKEN, str(error), "select a complete bundle with --bundle")
    except Exception as error:  # any failure is reported, such as lack of memory
      fix = "free memory, or set JAX_PLATFORMS=cpu; if neither helps, report this line"
      yield Check("sampling", Status.BROKEN, _one_line(error), fix)
    else:
      seconds = time.perf_counter() - started
      found = f"{result.new_seconds:.2f} s of audio in {seconds:.1f} s, including compilation"
      yield Check("sampling", Status.OK, found)


def _one_line(error: BaseException) -> str:
  return f"{type(error).__name__}: {' '.join(str(error).split())}"
