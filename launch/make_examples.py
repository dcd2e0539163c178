r"""Creates the example prompts in `examples/`: three short clips made for this project.

  python launch/make_examples.py --output_dir examples \
    --speech_command "my_kokoro --voice {voice} --text_file {text_file} --output {wav}"

`--speech_command` is any command that synthesizes a text with a voice of Kokoro-82M. The piano clip
needs the Debian packages `fluidsynth` and `fluid-soundfont-gm`. The sentences were written for this
project. The piano piece is the beginning of the Minuet in G by Christian Petzold (1677-1733), which
is in the public domain; this script writes its MIDI file.
"""

import os
import subprocess
import tempfile
from collections.abc import Sequence

import numpy as np
import soundfile
import soxr
from absl import app, flags

from audiolm_jax.data import speech_engines

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", "examples", "Folder for the prompts.")
flags.DEFINE_string(
  "speech_command", None, "Command with {voice}, {text_file} and {wav}.", required=True
)

SAMPLE_RATE = 16000
PEAK = 0.5
SOUND_FONT = "/usr/share/sounds/sf2/FluidR3_GM.sf2"
SENTENCES = {
  "speech_woman": (
    "af_kore",
    "The ferry left the harbour before sunrise, and on the upper deck a few passengers stood in "
    "silence.",
  ),
  "speech_man": (
    "am_liam",
    "In the old library nobody spoke above a whisper, for the keeper of the books was a light "
    "sleeper.",
  ),
}
TICKS = 480  # per quarter note
TEMPO = 500_000  # microseconds per quarter note: 120 quarter notes per minute
# Onset and length in quarter notes, MIDI pitch, velocity.
MELODY = (
  *((0, 1, 74, 78), (1, 0.5, 67, 62), (1.5, 0.5, 69, 64), (2, 0.5, 71, 67), (2.5, 0.5, 72, 70)),
  *((3, 1, 74, 76), (4, 0.9, 67, 60), (5, 0.9, 67, 58)),
  *((6, 1, 76, 80), (7, 0.5, 72, 64), (7.5, 0.5, 74, 66), (8, 0.5, 76, 70), (8.5, 0.5, 78, 73)),
  *((9, 1, 79, 78), (10, 0.9, 67, 60), (11, 0.9, 67, 56)),
)
BASS = (
  *((0, 2, 55, 52), (0, 2, 59, 48), (0, 2, 62, 48), (2, 1, 57, 50)),
  *((3, 3, 59, 52), (6, 3, 60, 54), (9, 3, 59, 50)),
)


def midi_file(notes: Sequence[tuple[float, float, int, int]]) -> bytes:
  """Returns a standard MIDI file, format 0, with `notes` that have the fields of `MELODY`."""
  events = []
  for onset, length, pitch, velocity in notes:
    events.append((round(onset * TICKS), bytes([0x90, pitch, velocity])))
    events.append((round((onset + length) * TICKS) - 1, bytes([0x80, pitch, 0])))
  track = b"\x00\xff\x51\x03" + TEMPO.to_bytes(3, "big")
  now = 0
  for tick, event in sorted(events):
    track += _variable_length(tick - now) + event
    now = tick
  track += b"\x00\xff\x2f\x00"
  header = b"MThd" + b"".join(
    n.to_bytes(size, "big") for n, size in ((6, 4), (0, 2), (1, 2), (TICKS, 2))
  )
  return header + b"MTrk" + len(track).to_bytes(4, "big") + track


def _variable_length(number: int) -> bytes:
  groups = [number & 0x7F]
  while number := number >> 7:
    groups.insert(0, number & 0x7F | 0x80)
  return bytes(groups)


def speak(voice: str, sentence: str) -> np.ndarray:
  engine = speech_engines.Engine(FLAGS.speech_command)
  waveform, rate = speech_engines.speak("speech_command", engine, voice, sentence)
  return soxr.resample(waveform, rate, SAMPLE_RATE)


def render() -> np.ndarray:
  with tempfile.TemporaryDirectory() as folder:
    midi, wav = os.path.join(folder, "tune.mid"), os.path.join(folder, "out.wav")
    with open(midi, "wb") as file:
      file.write(midi_file(MELODY + BASS))
    options = [
      "-ni",
      "-q",
      "-g",
      "0.6",
      "-r",
      str(SAMPLE_RATE),
      "-F",
      wav,
      "-O",
      "s16",
      "-T",
      "wav",
    ]
    subprocess.run(
      ["fluidsynth", *options, SOUND_FONT, midi], check=True, stdout=subprocess.DEVNULL
    )
    stereo, _ = soundfile.read(wav, dtype="float32", always_2d=True)
  # Cut at the end of the last bar: the prompt ends while notes still sound.
  return stereo.mean(axis=1)[: round(12 * TEMPO * 1e-6 * SAMPLE_RATE)]


def finish(waveform: np.ndarray) -> np.ndarray:
  waveform = waveform - waveform.mean()
  loud = np.flatnonzero(np.abs(waveform) > 0.02 * np.abs(waveform).max())
  waveform = waveform[max(0, loud[0] - SAMPLE_RATE // 20) : loud[-1] + 1]
  return waveform * (PEAK / np.abs(waveform).max())


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unexpected argument {argv[1]!r}")
  os.makedirs(FLAGS.output_dir, exist_ok=True)
  sounds = {name: speak(*voice) for name, voice in SENTENCES.items()}
  sounds["piano"] = render()
  for name, waveform in sounds.items():
    waveform = finish(waveform)
    path = os.path.join(FLAGS.output_dir, f"{name}.flac")
    soundfile.write(path, waveform, SAMPLE_RATE, subtype="PCM_16")
    print(f"{path}: {len(waveform) / SAMPLE_RATE:.2f} s")


if __name__ == "__main__":
  app.run(main)
