"""What sampling needs of a machine, looked at one thing after the other."""

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

from audiolm_jax.core import allocator, compilation_cache
from audiolm_jax.core.errors import UserError
from audiolm_jax.core.version import __version__

# By the module that is imported: the distribution it comes with.
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
# By extra, as in requirements/extras/: the distributions it brings, and what they are for.
OPTIONAL = {
  "train": (
    "optax orbax-checkpoint gin-config clu tensorboard tensorflow seqio sentencepiece fsspec "
    "google-crc32c importlib_resources matplotlib",
    "training",
  ),
  "beam": ("apache-beam", "cache_tokens --runner"),
  "eval": ("pystoi librosa pocketsphinx matplotlib", "some measures of eval"),
  "measures": (
    "pesq ai-edge-litert faster-whisper whisper-normalizer speechmos onnxruntime",
    "PESQ, Lyra, Whisper and DNSMOS in eval",
  ),
  "plot": ("matplotlib", "pictures"),
  "notebooks": ("jupyterlab matplotlib", "the notebooks"),
  "demo": ("gradio matplotlib", "the live demo"),
  "hub": ("huggingface_hub", "bundles push and pull"),
  "gcs": ("gcsfs", "files at gs://"),
  "s3": ("s3fs", "files at s3://"),
}
_LEAST_MEMORY = 1 << 30  # bytes; sampling with a bundle that ships takes 0.7 GB
_SECONDS = 0.4
_CHECKOUT = Path(__file__).resolve().parents[2]


class Status(enum.StrEnum):
  """How a check ended; BROKEN alone keeps sampling from working."""

  OK = "ok"
  ABSENT = "absent"
  WARNING = "warning"
  BROKEN = "broken"


@dataclasses.dataclass(frozen=True)
class Check:
  """One thing that was looked at.

  Attributes:
    name: of the thing.
    status: how it is.
    found: versions, sizes or the error, in one line.
    mend: what to do where it is not as it should be.
  """

  name: str
  status: Status
  found: str
  mend: str = ""


def run_checks(bundle: str) -> Iterator[Check]:
  """Looks at everything, cheap things first; what depends on something broken is not tried.

  Args:
    bundle: name or folder of the bundle to sample with.
  """
  yield Check("audiolm_jax", Status.OK, f"{__version__}, {Path(__file__).parents[1]}")
  yield Check("python", Status.OK, f"{platform.python_version()}, {platform.platform()}")
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


def _check_needed(module: str, distribution: str) -> Check:
  try:
    importlib.import_module(module)
    return Check(distribution, Status.OK, metadata.version(distribution))
  except ModuleNotFoundError as error:
    found = f"not installed ({error})"
  except Exception as error:  # a library that does not load, versions that do not fit
    found = f"does not load: {_one_line(error)}"
  return Check(distribution, Status.BROKEN, found, f"pip install --force-reinstall {_target()}")


def check_optional() -> Iterator[Check]:
  """A check for each extra of the package."""
  for extra, (distributions, purpose) in OPTIONAL.items():
    have, lack = [], []
    for name in distributions.split():
      try:
        have.append(f"{name} {metadata.version(name)}")
      except metadata.PackageNotFoundError:
        lack.append(name)
    if lack:
      found = f"without {', '.join(lack)}; needed for {purpose}"
      yield Check(f"extra {extra}", Status.ABSENT, found, f"pip install {_target(extra)}")
    else:
      yield Check(f"extra {extra}", Status.OK, ", ".join(have))


def _target(extra: str = "") -> str:
  """What pip is told: the checkout where this is one, else the package by name."""
  base = str(_CHECKOUT) if (_CHECKOUT / "pyproject.toml").is_file() else "audiolm_jax"
  return f'"{base}[{extra}]"' if extra else f'"{base}"'


def _check_memory() -> Check:
  available = available_memory()
  if available is None:
    return Check("memory", Status.OK, "not told by this system")
  found = f"{available / 2**30:.1f} GiB free"
  if available < _LEAST_MEMORY:
    return Check("memory", Status.WARNING, found, "end other programs; a small bundle needs 1 GiB")
  return Check("memory", Status.OK, found)


def available_memory() -> int | None:
  """Bytes of main memory that programs may still take; None where the system does not tell."""
  try:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
      if line.startswith("MemAvailable:"):
        return int(line.split()[1]) << 10
  except (OSError, ValueError):
    pass
  return None


def check_allocator() -> Check:
  """Whether this process keeps freed memory, as the command lines do."""
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
  except metadata.PackageNotFoundError:  # jaxlib, which has a check of its own
    return Check(name, Status.WARNING, "unknown without jaxlib", "install jaxlib first")
  if folder is None:
    return Check(name, Status.ABSENT, "off", "unset AUDIOLM_JAX_CACHE for faster starts")
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
    sizes = [path.stat().st_size for path in folder.iterdir()]
  except OSError as error:
    mend = "set AUDIOLM_JAX_CACHE to a folder that can be written"
    return Check(name, Status.WARNING, f"{folder}: {error.strerror or error}", mend)
  return Check(name, Status.OK, f"{folder}, {len(sizes)} files, {sum(sizes) / 1e6:.0f} MB")


def _check_devices() -> Check:
  """Asks JAX for its devices and has the first one multiply."""
  compilation_cache.enable()
  import jax
  import jax.numpy as jnp

  try:
    devices = jax.devices()
    ones = jnp.ones((8, 8))
    product = float(jax.jit(lambda x: (x @ x).sum())(ones))
  except Exception as error:  # whatever a backend raises when it does not start
    mend = "set JAX_PLATFORMS=cpu to go on without the accelerator, or reinstall its driver"
    return Check("devices", Status.BROKEN, _one_line(error), mend)
  found = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
  limit = (devices[0].memory_stats() or {}).get("bytes_limit")
  if limit:
    found += f", {limit / 2**30:.1f} GiB each"
  if product != 512:
    mend = "reinstall jax and the accelerator's driver; its arithmetic is wrong"
    return Check("devices", Status.BROKEN, f"{found}: 8 x 8 ones squared sum to {product}", mend)
  if devices[0].platform == "cpu" and shutil.which("nvidia-smi"):
    mend = f"pip install {_target('cuda12')}, if the GPU is to be used"
    return Check("devices", Status.WARNING, f"{found}; an NVIDIA GPU is not used", mend)
  return Check("devices", Status.OK, found)


def _check_bundles(chosen: str) -> Iterator[Check]:
  """Loads all bundles that ship, and the chosen one, with which it samples."""
  from audiolm_jax import bundles

  for name in dict.fromkeys([*bundles.list_bundles(), chosen]):
    label = f"bundle {Path(name).name}"
    # Another bundle that is damaged does not keep the chosen one from sampling.
    failed = Status.BROKEN if name == chosen else Status.WARNING
    try:
      bundle = bundles.load_bundle(name)
    except UserError as error:
      mend = "install the package again, or name another with --bundle"
      yield Check(label, failed, str(error), mend)
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
      yield Check("sampling", Status.BROKEN, str(error), "name a whole bundle with --bundle")
    except Exception as error:  # out of memory, a compiler that fails: whatever it is, it is told
      mend = "free memory, or set JAX_PLATFORMS=cpu; else report this line"
      yield Check("sampling", Status.BROKEN, _one_line(error), mend)
    else:
      seconds = time.perf_counter() - started
      found = f"{result.new_seconds:.2f} s of sound in {seconds:.1f} s, compiling included"
      yield Check("sampling", Status.OK, found)


def _one_line(error: BaseException) -> str:
  return f"{type(error).__name__}: {' '.join(str(error).split())}"
