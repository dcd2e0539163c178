"""Writes faster and slower copies of all training clips of a corpus, as additional voices.

  python launch/make_speed_copies.py --manifest speech.jsonl --output_dir speech_speeds

A faster or slower copy sounds like a different speaker, because pitch, formants and tempo change
together. Needs only requirements/sample.txt. Speed: about 150 times real time on one CPU core.
The new manifest contains only the copies, with absolute paths; append it to the original manifest
to train on both. Only clips of the split `train` are copied.

Source: Ko et al., "Audio Augmentation for Speech Recognition", Interspeech 2015.
"""

import json
import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("manifest", None, "A .jsonl manifest of the corpus.", required=True)
flags.DEFINE_string("output_dir", None, "Folder for the copies.", required=True)
flags.DEFINE_list("speeds", ["0.87", "0.93", "1.07", "1.15"], "Factors, none of them 1.")
flags.DEFINE_integer("workers", 1, "Processes; the result does not depend on their number.")

SAMPLE_RATE = 16000


def copy_clip(job: tuple[dict, str, str, float]) -> dict:
  """Writes a copy and returns its manifest row; a job is (row, source path, target path, speed)."""
  row, source, target, speed = job
  waveform, rate = soundfile.read(source, dtype="float32", always_2d=True)
  waveform = soxr.resample(waveform.mean(axis=1), rate * speed, SAMPLE_RATE, quality="HQ")
  waveform = np.clip(waveform, -1.0, 1.0)
  os.makedirs(os.path.dirname(target), exist_ok=True)
  soundfile.write(target, waveform, SAMPLE_RATE, subtype="PCM_16")
  copied = row | {"path": target, "seconds": round(len(waveform) / SAMPLE_RATE, 3)}
  if row.get("speaker") is not None:
    copied["speaker"] = f"{row['speaker']} x{speed:g}"
  return copied


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unexpected argument {argv[1]!r}")
  speeds = [float(speed) for speed in FLAGS.speeds]
  if not all(0.5 <= speed <= 2.0 and speed != 1.0 for speed in speeds):
    sys.exit(f"error: --speeds {FLAGS.speeds} must lie between 0.5 and 2 and not be 1")
  source, target = Path(FLAGS.manifest), Path(FLAGS.output_dir).absolute()
  if (target / "manifest.jsonl").exists():
    sys.exit(f"error: {target}/manifest.jsonl already exists; give another --output_dir")
  with open(source, encoding="utf-8") as file:
    rows = [json.loads(line) for line in file]
  if not any(row.get("split") for row in rows):
    sys.exit(f"error: {source} has no splits; add them, so that held-out clips are not copied")
  rows = [row for row in rows if row.get("split", "train") == "train"]
  for row in rows:
    if row.get("source_path"):
      row["source_path"] = str((source.parent / row["source_path"]).absolute())
  jobs = [
    (
      row,
      str(source.parent / row["path"]),
      str(target / f"x{speed:g}" / f"{number:06d}.flac"),
      speed,
    )
    for number, row in enumerate(rows)
    for speed in speeds
  ]
  if not jobs:
    sys.exit(f"error: {source} has no training clips")
  with multiprocessing.Pool(FLAGS.workers) as pool:
    copies = pool.map(copy_clip, jobs, chunksize=16)
  with open(target / "manifest.jsonl.part", "w", encoding="utf-8") as file:
    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in copies)
  os.replace(target / "manifest.jsonl.part", target / "manifest.jsonl")
  hours = sum(row["seconds"] for row in copies) / 3600
  print(f"wrote {len(copies)} clips, {hours:.2f} h, {target}/manifest.jsonl")


if __name__ == "__main__":
  app.run(main)
