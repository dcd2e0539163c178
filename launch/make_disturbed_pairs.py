"""Creates pairs of recordings for speech to speech: disturbed speech and the clean recording.

  python launch/make_disturbed_pairs.py --source recordings.jsonl --output_dir pairs --jobs 2
  launch/train_bundle.sh pairs/manifest.jsonl cleaner --preset small --pairs

Each recording has one pair for each of --kinds:

  whispered  noise with the spectral envelope of the speech
  fast       the speech 1.3 to 1.8 times as fast, with unchanged pitch
  noisy      the speech with noise, generated or from --noise, at an SNR of 5 to 15 dB

A pair is in the split of its recording. The manifest has a row for each pair: `path` is a symbolic
link to the recording, `source_path` is the disturbed speech, `source` the kind, and `disturbance`
describes the disturbance.

The random numbers of a pair depend only on --seed, the id of the recording and the kind. Rerun the
command to resume a stopped run or to add new recordings of the source.
"""

import hashlib
import math
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from absl import flags
from jaxtyping import Float

from audiolm_jax.core.command_line import check_given, run_cli
from audiolm_jax.core.errors import AudioError, UserError
from audiolm_jax.data import disturbances, manifest, synthetic_corpora
from audiolm_jax.data.manifest import AudioClip
from audiolm_jax.io import audio, storage

KINDS = ("whispered", "fast", "noisy")
FLAGS = flags.FLAGS
flags.DEFINE_string("source", None, "Manifest or folder of clean recordings.")
flags.DEFINE_string("output_dir", None, "Folder to create or to extend.")
flags.DEFINE_list("kinds", list(KINDS), f"Disturbances, of {', '.join(KINDS)}.")
flags.DEFINE_string("noise", None, "Manifest or folder of noise; default: generated noise.")
flags.DEFINE_list("speeds", ["1.3", "1.8"], "Least and greatest factor of `fast`.")
flags.DEFINE_list("snr", ["5", "15"], "Least and greatest ratio of speech to noise, in dB.")
flags.DEFINE_float("valid_fraction", 0.05, "Held-out share of a source without splits.", 0.0, 0.5)
flags.DEFINE_float("longest_seconds", 60.0, "Longer recordings are skipped.", 1.0, 600.0)
flags.DEFINE_float("max_failed_fraction", 0.01, "Accepted share of unusable recordings.", 0.0, 1.0)
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_integer("jobs", 1, "Threads; the result does not depend on their number.", 1)

SAMPLE_RATE = 16_000
LEAST_SECONDS = 0.1
NOISE_SECONDS = 120.0  # longest part of a noise recording that is used
DETERMINING = ("source", "noise", "speeds", "snr", "valid_fraction", "seed")


class Settings(NamedTuple):
  """The settings that determine the disturbance of a recording.

  Attributes:
    speeds: lowest and highest factor of `fast`.
    snr: lowest and highest signal-to-noise ratio of `noisy`, in dB.
    noises: recordings of noise; empty for generated noise.
    seed: random seed.
    longest_seconds: longest accepted duration of a recording.
  """

  speeds: tuple[float, float] = (1.3, 1.8)
  snr: tuple[float, float] = (5.0, 15.0)
  noises: Sequence[AudioClip] = ()
  seed: int = 0
  longest_seconds: float = 60.0


def main(argv: Sequence[str]) -> None:
  """Creates or extends the pairs, and reports their number and hours."""
  del argv
  check_given(FLAGS, "source", "output_dir")
  kinds = kinds_of(FLAGS.kinds)
  if storage.is_url(FLAGS.source):
    raise UserError(f"--source={FLAGS.source} must be on this machine, because pairs link to it")
  noises = manifest.list_clips(FLAGS.noise) if FLAGS.noise else []
  settings = Settings(
    speeds=range_of("speeds", FLAGS.speeds, 1.0, 4.0),
    snr=range_of("snr", FLAGS.snr, -20.0, 60.0),
    noises=noises,
    seed=FLAGS.seed,
    longest_seconds=FLAGS.longest_seconds,
  )
  clips = manifest.list_clips(FLAGS.source, FLAGS.valid_fraction)
  folder = Path(FLAGS.output_dir)
  synthetic_corpora.begin(folder, {name: FLAGS[name].value for name in DETERMINING})
  failed = manifest.SkipLog(len(clips), FLAGS.max_failed_fraction)
  rows = make_pairs(folder, clips, kinds, settings, failed, FLAGS.jobs)
  synthetic_corpora.write_manifest(folder, rows)
  hours = sum(row["seconds"] for row in rows) / 3600
  print(f"wrote {folder / 'manifest.jsonl'}: {len(rows)} pairs, {hours:.2f} h of clean speech")
  if failed.skipped:
    print(failed.report())


def make_pairs(
  folder: Path,
  clips: Sequence[AudioClip],
  kinds: Sequence[str],
  settings: Settings,
  failed: manifest.SkipLog,
  jobs: int,
) -> list[dict[str, Any]]:
  """Writes the missing files of all pairs and returns the manifest rows.

  Args:
    folder: folder of the pairs.
    clips: the recordings.
    kinds: kinds of disturbances.
    settings: settings of all disturbances.
    failed: counts the unusable recordings.
    jobs: number of threads.

  Raises:
    DataError: too many recordings are unusable.
  """

  def make(clip: AudioClip) -> list[dict[str, Any]]:
    try:
      return [make_pair(folder, clip, kind, settings) for kind in kinds]
    except (AudioError, soundfile.SoundFileError) as error:
      failed.skip(clip.id, str(error))
      return []

  with ThreadPoolExecutor(jobs) as pool:
    try:
      return [row for made in pool.map(make, clips) for row in made]
    finally:
      pool.shutdown(cancel_futures=True)


def make_pair(folder: Path, clip: AudioClip, kind: str, settings: Settings) -> dict[str, Any]:
  """Writes the missing files of a pair and returns its manifest row.

  Args:
    folder: folder of the pairs.
    clip: a recording.
    kind: kind of the disturbance.
    settings: settings of all disturbances.

  Raises:
    AudioError: the recording or its noise cannot be used.
  """
  rng = np.random.default_rng(zlib.crc32(f"{settings.seed} {kind} {clip.id}".encode()))
  disturbance: dict[str, Any] = {"kind": kind}
  if kind == "fast":
    disturbance["factor"] = round(rng.uniform(*settings.speeds), 3)
  noise, slope = None, 0.0
  if kind == "noisy":
    disturbance["snr_db"] = round(rng.uniform(*settings.snr), 2)
    noise = _noise_of(clip, settings.noises, rng)
    slope = round(rng.uniform(0.0, 2.0), 2)
    disturbance["noise"] = noise.id if noise else slope
  # The hash distinguishes recordings that have equal names in different folders.
  name = f"{Path(clip.id).stem}_{hashlib.sha256(clip.id.encode()).hexdigest()[:12]}"
  source = folder / kind / f"{name}.flac"
  target = folder / f"clean_{kind}" / f"{name}{Path(clip.path).suffix}"
  if not (source.exists() and target.exists()):
    waveform = _speech(clip, settings.longest_seconds)
    match kind:
      case "whispered":
        disturbed = disturbances.whispered(waveform, rng)
      case "fast":
        disturbed = disturbances.fast(waveform, disturbance["factor"])
      case _:
        if noise:
          background = _background(noise, len(waveform), rng)
        else:
          background = disturbances.coloured_noise(len(waveform), slope, rng)
        disturbed = disturbances.noisy(waveform, background, disturbance["snr_db"])
    for path in (source, target):
      synthetic_corpora.make_folder(path.parent)
    audio.write_audio(source, disturbed, SAMPLE_RATE)
    target.unlink(missing_ok=True)
    target.symlink_to(Path(clip.path).resolve())
  return {
    "path": str(target.relative_to(folder)),
    "source_path": str(source.relative_to(folder)),
    "split": clip.split,
    "seconds": round(soundfile.info(target).duration, 3),
    "source": kind,
    "disturbance": disturbance,
    **synthetic_corpora.given_fields(clip, "speaker", "label", "text"),
  }


def _speech(clip: AudioClip, longest: float) -> Float[np.ndarray, "samples"]:
  """Returns a recording at 16 kHz; raises `AudioError` if the recording cannot be used."""
  waveform = audio.load_audio(clip.path, SAMPLE_RATE, seconds=longest + 1)
  if len(waveform) > longest * SAMPLE_RATE:
    raise AudioError(f"it is longer than --longest_seconds={longest:g}; cut it at pauses")
  audio.check_length(len(waveform), SAMPLE_RATE, LEAST_SECONDS, clip.id)
  audio.check_not_silent(waveform, clip.id)
  return waveform


def _noise_of(
  clip: AudioClip, noises: Sequence[AudioClip], rng: np.random.Generator
) -> AudioClip | None:
  """Draws a noise recording for a recording of speech; None if there are no noise recordings.

  Held-out speech gets held-out noise, and training speech gets training noise, if possible.
  """
  own = [noise for noise in noises if (noise.split == "train") == (clip.split == "train")]
  own = own or noises
  return own[int(rng.integers(len(own)))] if own else None


def _background(
  noise: AudioClip, samples: int, rng: np.random.Generator
) -> Float[np.ndarray, "samples"]:
  """Returns a section of noise from a random position on; the noise repeats if it is too short.

  Raises:
    AudioError: the noise cannot be read, or the section is silent.
  """
  waveform = audio.load_audio(noise.path, SAMPLE_RATE, seconds=NOISE_SECONDS)
  start = rng.integers(len(waveform))
  section = np.resize(np.roll(waveform, -start), samples)
  audio.check_not_silent(section, f"a section of {noise.id}")
  return section


def kinds_of(given: Sequence[str]) -> list[str]:
  """Returns the kinds that --kinds names.

  Raises:
    UserError: a kind is unknown, or there are no kinds.
  """
  if not given or not set(given) <= set(KINDS):
    raise UserError(f"--kinds={','.join(given)} must name some of {', '.join(KINDS)}")
  return list(given)


def range_of(name: str, given: Sequence[str], least: float, most: float) -> tuple[float, float]:
  """Returns the lowest and the highest value of a range in a flag.

  Args:
    name: name of the flag.
    given: value of the flag.
    least: smallest accepted number.
    most: largest accepted number.

  Raises:
    UserError: the flag is not two numbers from `least` to `most`, the lower one first.
  """
  try:
    low, high = map(float, given)
  except ValueError:
    low, high = math.nan, math.nan
  if not least <= low <= high <= most:
    shown = ",".join(given)
    raise UserError(f"--{name}={shown} must be two rising numbers from {least:g} to {most:g}")
  return low, high


if __name__ == "__main__":
  run_cli(main)
