"""Reads mutated sound files of every format, each of which must be read or refused with one line.

  python -m benchmarks.fuzz_audio --seconds 600

prints the number of files every minute. Runs with other values of --seed read other files, so a
long run can be done in pieces. A run ends with exit code 1 if a file raises another exception or
needs more than --most_seconds of a processor or a gigabyte more memory, and copies that file to the
current folder. If the decoder crashes or does not end, the file is `fuzz_audio_SEED.bin` in the
folder of temporary files.
"""

import collections
import faulthandler
import io
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from absl import flags, logging

from audiolm_jax.core.command_line import run_cli
from audiolm_jax.core.errors import AudioError
from audiolm_jax.io import audio, containers, provenance

FLAGS = flags.FlagValues()
_PROGRESS_SECONDS = 60.0
_SECONDS = flags.DEFINE_float("seconds", 600.0, "Length of the run.", flag_values=FLAGS)
_MOST_SECONDS = flags.DEFINE_float(
  "most_seconds", 10.0, "Longest time for one file.", flag_values=FLAGS
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the mutations.", flag_values=FLAGS)

FORMATS = {
  "wav": ("WAV", "PCM_16"),
  "wav float": ("WAV", "FLOAT"),
  "rf64": ("RF64", "PCM_16"),
  "aiff": ("AIFF", "PCM_16"),
  "au": ("AU", "PCM_16"),
  "w64": ("W64", "PCM_16"),
  "caf": ("CAF", "PCM_16"),
  "flac": ("FLAC", "PCM_16"),
  "ogg": ("OGG", "VORBIS"),
  "opus": ("OGG", "OPUS"),
  "mp3": ("MP3", "MPEG_LAYER_III"),
}
_HEADER_BYTES = 128


def originals(rng: np.random.Generator) -> dict[str, bytes]:
  """Returns a file of every format, with one and two channels."""
  files = {}
  for name, (container, subtype) in FORMATS.items():
    for channels in (1, 2):
      content = io.BytesIO()
      samples = rng.uniform(-0.5, 0.5, (8_000, channels))
      soundfile.write(content, samples, 16_000, format=container, subtype=subtype)
      files[f"{name} {channels}"] = content.getvalue()
  return files


def mutated(content: bytes, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
  """Returns a file with one to four changes: bits, bytes, sizes, cuts, copies and joined files."""
  data = bytearray(content)
  for _ in range(rng.integers(1, 5)):
    # Most changes are made to the header.
    span = min(len(data), _HEADER_BYTES if rng.random() < 0.7 else len(data))
    at = int(rng.integers(0, max(1, span)))
    kind = rng.integers(0, 8)
    if kind == 0 and data:
      data[min(at, len(data) - 1)] ^= 1 << int(rng.integers(0, 8))
    elif kind == 1:
      data[at : at + 1] = rng.bytes(1)
    elif kind == 2:
      length = int(rng.choice([1, 2, 4, 8]))
      data[at : at + length] = bytes([int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))]) * length
    elif kind == 3:
      data[at : at + 4] = int(rng.integers(0, 2**32)).to_bytes(4, "little")
    elif kind == 4:
      del data[int(rng.integers(0, len(data) + 1)) :]
    elif kind == 5:
      del data[at : at + int(rng.integers(1, 64))]
    elif kind == 6:
      data[at:at] = rng.bytes(int(rng.integers(1, 64)))
    else:
      data += others[int(rng.integers(0, len(others)))]
  return _with_checksums(bytes(data)) if rng.random() < 0.7 else bytes(data)


def _with_checksums(content: bytes) -> bytes:
  """Returns a file with valid checksums of its Ogg pages, so that their content is read."""
  first, *pages = content.split(b"OggS")
  pages = [b"OggS" + page for page in pages]
  return first + b"".join(page[:22] + containers.ogg_checksum(page) + page[26:] for page in pages)


def outcome_of(path: Path) -> str:
  """Reads a file in three ways and returns "read" or "refused".

  Raises:
    AssertionError: the ways differ, or a message has several lines.
  """
  try:
    provenance.read_provenance(path)
    waveform, rate = audio.read_audio(path)
    blocks = sum(map(len, audio.read_blocks(path, sample_rate=rate, block_samples=4_096)))
  except AudioError as error:
    assert "\n" not in str(error), error
    return "refused"
  assert blocks == len(waveform) and np.abs(waveform).max() <= 1.0
  return "read"


def main(argv: Sequence[str]) -> None:
  """Mutates and reads files until the time is over."""
  del argv
  logging.set_verbosity(logging.ERROR)
  warnings.simplefilter("error")
  rng = np.random.default_rng(_SEED.value)
  files = originals(rng)
  counts: collections.Counter[tuple[str, str]] = collections.Counter()
  path = Path(tempfile.gettempdir()) / f"fuzz_audio_{_SEED.value}.bin"
  began = shown = time.monotonic()
  end = began + _SECONDS.value
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  while time.monotonic() < end:
    name = list(files)[int(rng.integers(0, len(files)))]
    path.write_bytes(mutated(files[name], list(files.values()), rng))
    used = time.process_time()
    faulthandler.dump_traceback_later(10 * _MOST_SECONDS.value, exit=True)
    try:
      outcome = outcome_of(path)
      took = time.process_time() - used
      assert took < _MOST_SECONDS.value, f"{took:.1f} s"
      grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
      assert grown < 1 << 20, f"{grown >> 10} MB more memory"
    except Exception as error:
      kept = Path(f"fuzz_{sum(counts.values())}.{name.split()[0]}")
      kept.write_bytes(path.read_bytes())
      print(f"{kept}: {type(error).__name__}: {error}")
      sys.exit(1)
    counts[name.split()[0], outcome] += 1
    if time.monotonic() - shown >= _PROGRESS_SECONDS:
      shown = time.monotonic()
      print(f"{sum(counts.values())} files in {shown - began:.0f} s", flush=True)
  for kind in sorted({kind for kind, _ in counts}):
    print(f"{kind}: {counts[kind, 'read']} read, {counts[kind, 'refused']} refused")
  print(f"{sum(counts.values())} files")


if __name__ == "__main__":
  run_cli(main, FLAGS)
