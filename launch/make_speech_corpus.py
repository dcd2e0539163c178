"""Speaks a text with many synthetic voices: 16 kHz mono FLAC and a manifest, for training.

  python launch/make_speech_corpus.py --text sentences.txt --output_dir speech_synth --hours 6

Needs the Debian packages `espeak-ng`, `flite`, `festival` and `festvox-kdlpc16k` (voice ked).
Time: about 40 times real time on one CPU core, so 6 hours of speech take 10 minutes.
The text file has one `id<TAB>sentence` per line. Its last sentences and some of the voices are kept
for the `valid` split; the `probe` split is the same sentences spoken by several voices of both.
"""

import dataclasses
import io
import itertools
import json
import multiprocessing
import multiprocessing.pool
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence

import numpy as np
import soundfile
import soxr
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("text", None, "Text file, one `id<TAB>sentence` per line.", required=True)
flags.DEFINE_string(
  "output_dir", None, "Folder to make; must not hold a manifest yet.", required=True
)
flags.DEFINE_float("hours", 6.0, "Hours of training speech to make.")
flags.DEFINE_float("valid_hours", 0.2, "Hours of validation speech to make.")
flags.DEFINE_float("natural_share", 0.6, "Share of clips by recorded-voice synthesizers (flite).")
flags.DEFINE_integer("max_sentences", 3, "A clip is one to this many consecutive sentences.")
flags.DEFINE_integer("probe_sentences", 20, "Sentences spoken by every probe voice.")
flags.DEFINE_string("first_id", "LJ010", "Ids that sort before this one are left out.")
flags.DEFINE_integer("seed", 0, "Seed of every choice; the same seed makes the same corpus.")
flags.DEFINE_integer("workers", 1, "Processes; the result does not depend on their number.")

SAMPLE_RATE = 16000
PEAK = 0.5
VALID_SENTENCES = 0.03  # share of the sentences, the last ones
CUT_BELOW = 10 ** (-55 / 20)  # digital silence at the ends, relative to the peak
LICENCE = "text public domain; synthetic voice ({})"

ACCENTS = (
  "en-gb",
  "en-us",
  "en-gb-scotland",
  "en-gb-x-gbclan",
  "en-gb-x-rp",
  "en-gb-x-gbcwmd",
  "en-029",
  "en-us-nyc",
)
MALE = (
  *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "Alex", "Andy", "Denis", "Gene", "Hugo"),
  *("Lee", "Marco", "Michael", "Mike", "adam", "antonio", "benjamin", "boris", "caleb", "david"),
  *("edward", "grandpa", "iven", "john", "max", "miguel", "pablo", "paul", "pedro", "quincy"),
  *("robert", "sandro", "travis", "victor", "zac"),
)
FEMALE = (
  *("f1", "f2", "f3", "f4", "f5", "Alicia", "Andrea", "Annie", "anika", "aunty", "belinda"),
  *("grandma", "linda", "shelby", "steph"),
)
VALID_VARIANTS = ("m7", "f4", "Michael", "steph", "paul", "linda")


@dataclasses.dataclass(frozen=True)
class Voice:
  """One speaker: the engine, its voice, and what makes this speaker of it.

  `rate` is the factor by which pitch and formants are moved (playing at another sampling rate), so
  that one recorded voice gives speakers with shorter and longer vocal tracts.
  """

  name: str
  engine: str
  voice: str
  sex: str
  split: str
  rate: float = 1.0
  pitch: int = 50


@dataclasses.dataclass(frozen=True)
class Job:
  path: str
  split: str
  voice: Voice
  text: str
  text_id: str
  tempo: float


def natural_voices() -> list[Voice]:
  """Speakers made of the recorded voices of flite; festival's `ked` is heard in validation only."""
  train = {
    "slt": ("F", (0.93, 1.0, 1.07, 1.14)),
    "rms": ("M", (0.88, 0.94, 1.0, 1.07)),
    "awb": ("M", (0.88, 0.94, 1.0, 1.07)),
    "kal16": ("M", (0.94, 1.05)),
  }
  valid = {"slt": ("F", (0.86,)), "rms": ("M", (1.15,)), "awb": ("M", (1.15,))}
  voices = []
  for split, table in (("train", train), ("valid", valid)):
    for voice, (sex, rates) in table.items():
      for rate in rates:
        voices.append(Voice(f"flite-{voice}-{round(100 * rate)}", "flite", voice, sex, split, rate))
  voices.append(Voice("festival-ked-100", "festival", "ked_diphone", "M", "valid"))
  return voices


def formant_voices(rng: random.Random) -> list[Voice]:
  """Speakers made of espeak-ng's accents, variants and a pitch of their own."""
  voices = []
  for sex, variants in (("M", MALE), ("F", FEMALE)):
    for variant in variants:
      split = "valid" if variant in VALID_VARIANTS else "train"
      accents = rng.sample(ACCENTS, 1 if split == "valid" else 2)
      for accent in accents:
        name = f"espeak-{accent}-{variant}"
        pitch = rng.randint(30, 70)
        voices.append(Voice(name, "espeak", f"{accent}+{variant}", sex, split, pitch=pitch))
  return voices


def plan(seed: int, sentences: list[tuple[str, str]]) -> dict[str, Iterator[Job]]:
  """The jobs of each split; `valid` and `train` never end, their reader stops at its hours."""
  rng = random.Random(seed)
  natural, formant = natural_voices(), formant_voices(rng)
  num_valid = max(1, round(VALID_SENTENCES * len(sentences)))
  train, valid = sentences[:-num_valid], sentences[-num_valid:]
  plain = [s for s in valid if 40 <= len(s[1]) <= 120]
  probes = rng.sample(plain, min(FLAGS.probe_sentences, len(plain)))
  valid = [s for s in valid if s not in probes]
  probe_voices = [
    *(v for v in natural if v.split == "valid"),
    *rng.sample([v for v in formant if v.split == "valid"], 3),
    *(v for v in natural if v.split == "train" and v.rate == 1.0),
    *rng.sample([v for v in formant if v.split == "train"], 3),
  ]
  probe_jobs = [
    Job(f"probe/{v.name}/{i}.flac", "probe", v, text, i, rng.uniform(0.92, 1.08))
    for i, text in probes
    for v in probe_voices
  ]
  return {
    "probe": iter(probe_jobs),
    "valid": _plan_split(random.Random(seed + 1), "valid", valid, natural, formant),
    "train": _plan_split(random.Random(seed + 2), "train", train, natural, formant),
  }


def _plan_split(
  rng: random.Random,
  split: str,
  sentences: list[tuple[str, str]],
  natural: list[Voice],
  formant: list[Voice],
) -> Iterator[Job]:
  pools = [[v for v in voices if v.split == split] for voices in (natural, formant)]
  weights = [[0.3 if v.voice == "kal16" else 1.0 for v in pool] for pool in pools]
  round_number = 0
  while True:
    starts, position = [], 0
    while position < len(sentences):
      count = rng.randint(1, FLAGS.max_sentences)
      starts.append((position, count))
      position += count
    rng.shuffle(starts)
    for start, count in starts:
      group = sentences[start : start + count]
      kind = 0 if rng.random() < FLAGS.natural_share else 1
      voice = rng.choices(pools[kind], weights[kind])[0]
      text_id = group[0][0]
      text = " ".join(text for _, text in group)
      path = f"{split}/{voice.name}/{text_id}_{round_number}.flac"
      yield Job(path, split, voice, text, text_id, rng.uniform(0.88, 1.15))
    round_number += 1


def speak(job: Job) -> tuple[Job, np.ndarray]:
  """The sentence as that voice says it: float32 [samples] at 16 kHz, no offset, peak 0.5."""
  voice = job.voice
  if voice.engine == "flite":
    stretch = job.tempo * voice.rate  # playing faster by `rate` undoes this part
    waveform, rate = _run(
      *("flite", "-voice", voice.voice, "--setf", f"duration_stretch={stretch:.3f}"),
      *("-t", job.text, "-o", "/dev/stdout"),
    )
  elif voice.engine == "festival":
    setup = f"(begin (voice_{voice.voice}) (Parameter.set 'Duration_Stretch {job.tempo:.3f}))"
    waveform, rate = _run("text2wave", "-eval", setup, stdin=job.text)
  else:
    words_per_minute = round(165 / job.tempo)
    waveform, rate = _run(
      *("espeak-ng", "-v", voice.voice, "-p", str(voice.pitch), "-s", str(words_per_minute)),
      *("--stdout", job.text),
    )
  waveform = soxr.resample(waveform, rate * voice.rate, SAMPLE_RATE, quality="HQ")
  return job, _finish(waveform)


def _run(*command: str, stdin: str | None = None) -> tuple[np.ndarray, int]:
  done = subprocess.run(command, input=stdin and stdin.encode(), capture_output=True, check=False)
  if done.returncode or len(done.stdout) < 1000:
    raise RuntimeError(f"{command[0]} failed: {done.stderr.decode(errors='replace')[-300:]}")
  # The header of a wave file written to a pipe has no valid length; read what follows it.
  data = done.stdout
  at = data.find(b"data")
  rate = int.from_bytes(data[24:28], "little")
  if data[:4] == b"RIFF" and at > 0:
    payload = data[at + 8 :]
    samples = np.frombuffer(payload[: len(payload) // 2 * 2], "<i2")
    return samples.astype(np.float32) / 32768.0, rate
  waveform, rate = soundfile.read(io.BytesIO(data), dtype="float32")
  return waveform, rate


def _finish(waveform: np.ndarray) -> np.ndarray:
  waveform = waveform - waveform.mean()
  peak = np.abs(waveform).max()
  loud = np.flatnonzero(np.abs(waveform) > CUT_BELOW * peak)
  margin = SAMPLE_RATE // 10
  waveform = waveform[max(0, loud[0] - margin) : loud[-1] + 1 + margin]
  return (waveform * (PEAK / peak)).astype(np.float32)


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unexpected argument {argv[1]!r}")
  missing = [t for t in ("espeak-ng", "flite", "text2wave") if shutil.which(t) is None]
  if missing:
    sys.exit(f"error: {missing[0]} is not installed; apt install espeak-ng flite festival")
  manifest = os.path.join(FLAGS.output_dir, "manifest.jsonl")
  if os.path.exists(manifest):
    sys.exit(f"error: {manifest} is there already; give another --output_dir or remove it")
  with open(FLAGS.text, encoding="utf-8") as file:
    rows = [line.rstrip("\n").partition("\t") for line in file if "\t" in line]
  sentences = [(text_id, text) for text_id, _, text in rows if text_id >= FLAGS.first_id]
  if len(sentences) < 100:
    sys.exit(f"error: {FLAGS.text} has {len(sentences)} usable sentences; at least 100 are needed")

  limits = {"probe": float("inf"), "valid": FLAGS.valid_hours, "train": FLAGS.hours}
  rows = []
  with multiprocessing.Pool(FLAGS.workers) as pool:
    for split, jobs in plan(FLAGS.seed, sentences).items():
      hours, count = 0.0, 0
      for job, seconds in _write_all(pool, jobs):
        rows.append(_row(job, seconds))
        hours, count = hours + seconds / 3600, count + 1
        if count % 500 == 0:
          print(f"{split}: {hours:.2f} h, {count} clips", flush=True)
        if hours >= limits[split]:
          break
      print(f"{split}: {hours:.2f} h, {count} clips", flush=True)
  with open(manifest + ".part", "w", encoding="utf-8") as file:
    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
  os.replace(manifest + ".part", manifest)
  print(f"wrote {manifest}")


def _write_all(pool: multiprocessing.pool.Pool, jobs: Iterator[Job]) -> Iterator[tuple[Job, float]]:
  while batch := list(itertools.islice(jobs, 32)):
    for job, waveform in pool.imap(speak, batch):
      path = os.path.join(FLAGS.output_dir, job.path)
      os.makedirs(os.path.dirname(path), exist_ok=True)
      soundfile.write(path, waveform, SAMPLE_RATE, subtype="PCM_16")
      yield job, len(waveform) / SAMPLE_RATE


def _row(job: Job, seconds: float) -> dict[str, object]:
  program = {"flite": "flite, CMU", "festival": "festival, CSTR/CMU", "espeak": "espeak-ng"}
  return {
    "path": job.path,
    "seconds": round(seconds, 3),
    "speaker": job.voice.name,
    "sex": job.voice.sex,
    "split": job.split,
    "sentence": job.text_id,
    "text": job.text,
    "licence": LICENCE.format(program[job.voice.engine]),
    "source": f"{job.voice.engine} {job.voice.voice}",
  }


if __name__ == "__main__":
  app.run(main)
