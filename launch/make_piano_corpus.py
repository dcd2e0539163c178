"""Renders a folder of piano MIDI files to 16 kHz mono FLAC, with a manifest.

  python launch/make_piano_corpus.py --midi_dir piano_midi --output_dir piano

Needs the Debian packages `fluidsynth` and `fluid-soundfont-gm` (FluidR3, MIT licence).
Speed: about 100 times real time on one CPU core, so 7 hours of piano take 5 minutes.
`--midi_dir` contains `manifest.jsonl` (path, composer, split, licence, source). With
`--semitones=-2,0,2`, the pieces of the train split are also rendered two semitones lower and
higher; the tempo changes by the same factor as the frequencies.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import numpy as np
import soundfile
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("midi_dir", None, "Folder with manifest.jsonl and MIDI files.", required=True)
flags.DEFINE_string(
  "output_dir", None, "Folder to create; must not contain a manifest yet.", required=True
)
flags.DEFINE_string("sound_font", "/usr/share/sounds/sf2/FluidR3_GM.sf2", "Sound font.")
flags.DEFINE_list("semitones", ["0"], "Transpositions of train pieces; others are rendered at 0.")
flags.DEFINE_float("max_seconds", 0.0, "Longest length of a piece, cut at its end; 0 for no limit.")

SAMPLE_RATE = 16000
PEAK = 0.5
GAIN = "0.6"
SILENCE = 10 ** (-70 / 20)  # amplitude relative to the peak; silent ends are cut


def render(midi: str, sound_font: str, semitones: float) -> np.ndarray:
  """Returns the waveform of a piece: float32 [samples] at 16 kHz with mean 0 and peak 0.5.

  A transposed piece is rendered at a sample rate other than 16 kHz, and its samples are used as
  samples at 16 kHz. Pitch and tempo thus change together, without resampling.
  """
  rate = round(SAMPLE_RATE / 2 ** (semitones / 12))
  with tempfile.TemporaryDirectory() as folder:
    wav = os.path.join(folder, "out.wav")
    options = ["-ni", "-q", "-g", GAIN, "-r", str(rate), "-F", wav, "-O", "s16", "-T", "wav"]
    subprocess.run(
      ["fluidsynth", *options, sound_font, midi],
      check=True,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    stereo, _ = soundfile.read(wav, dtype="float32", always_2d=True)
  waveform = stereo.mean(axis=1)
  waveform -= np.median(waveform)
  peak = np.abs(waveform).max()
  if peak == 0:
    sys.exit(f"error: {midi} renders to silence; is {sound_font} a General MIDI sound font?")
  waveform = without_silent_ends(waveform)
  if FLAGS.max_seconds > 0:
    waveform = waveform[: round(FLAGS.max_seconds * SAMPLE_RATE)]
  waveform = waveform - waveform.mean()
  return waveform * (PEAK / np.abs(waveform).max())


def without_silent_ends(waveform: np.ndarray) -> np.ndarray:
  """Returns the samples from the first to the last sample above -70 dB relative to the peak.

  A movement that was cut out of a longer recording begins with silence, because its notes keep
  their start times.
  """
  sounding = np.flatnonzero(np.abs(waveform) > SILENCE * np.abs(waveform).max())
  return waveform[sounding[0] : sounding[-1] + 1]


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unexpected argument {argv[1]!r}")
  if shutil.which("fluidsynth") is None:
    sys.exit("error: fluidsynth is not installed; apt install fluidsynth fluid-soundfont-gm")
  if not os.path.exists(FLAGS.sound_font):
    sys.exit(f"error: {FLAGS.sound_font} does not exist; apt install fluid-soundfont-gm")
  manifest = os.path.join(FLAGS.output_dir, "manifest.jsonl")
  if os.path.exists(manifest):
    sys.exit(f"error: {manifest} already exists; give another --output_dir or remove it")
  with open(os.path.join(FLAGS.midi_dir, "manifest.jsonl"), encoding="utf-8") as file:
    pieces = [json.loads(line) for line in file]

  rows = []
  for number, piece in enumerate(pieces, 1):
    steps = [float(s) for s in FLAGS.semitones] if piece["split"] == "train" else [0.0]
    for semitones in steps:
      waveform = render(os.path.join(FLAGS.midi_dir, piece["path"]), FLAGS.sound_font, semitones)
      suffix = f"_{semitones:+g}" if semitones else ""
      path = os.path.splitext(piece["path"])[0] + suffix + ".flac"
      target = os.path.join(FLAGS.output_dir, path)
      os.makedirs(os.path.dirname(target), exist_ok=True)
      soundfile.write(target, waveform, SAMPLE_RATE, subtype="PCM_16")
      row = {
        "path": path,
        "seconds": round(len(waveform) / SAMPLE_RATE, 3),
        "composer": piece.get("composer"),
        "split": piece["split"],
        "semitones": semitones,
        "licence": f"{piece.get('licence')} (MIDI), MIT (FluidR3 sound font)",
        "source": f"{piece.get('source')}, rendered with fluidsynth",
      }
      rows.append(row)
    print(f"{number} of {len(pieces)}: {piece['path']}", flush=True)
  with open(manifest + ".part", "w", encoding="utf-8") as file:
    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
  os.replace(manifest + ".part", manifest)
  for split in sorted({row["split"] for row in rows}):
    hours = sum(row["seconds"] for row in rows if row["split"] == split) / 3600
    print(f"{split}: {hours:.2f} h")


if __name__ == "__main__":
  app.run(main)
