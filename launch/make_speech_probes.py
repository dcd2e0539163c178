r"""Creates labelled speech for the suites content and likelihood of `eval`, with voices of flite.

  python launch/make_speech_probes.py --text sentences.txt --output_dir probes \
    --recordings speech.jsonl
  python -m audiolm_jax.eval --suite=content,likelihood --data=speech.jsonl --output_dir=results \
    --items=probes/abx.item --items_audio_dir=probes/abx --pairs=probes/pairs.jsonl

- `abx.item` and `abx/`: the last sentences of the text, spoken by four voices, with their phones.
  Pitch and formants are changed more than in make_speech_corpus.py.
- `pairs.jsonl`, category "word": a word of the text and a non-word with a different first
  consonant, spoken by all voices.
- category "speaker", with --recordings: a clip of the split `valid`, and a copy in which another
  speaker continues at the same level, as in SALMon.

Needs the Debian package `flite`. Time: a minute.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import soundfile
import soxr
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("text", None, "Text file, one `id<TAB>sentence` per line.", required=True)
flags.DEFINE_string("output_dir", None, "Folder to create; must not exist yet.", required=True)
flags.DEFINE_string("recordings", None, "Manifest with the fields path, speaker and split.")
flags.DEFINE_integer("sentences", 60, "Sentences for ABX.", 2)
flags.DEFINE_integer("words", 100, "Words, each paired with a non-word.", 1)
flags.DEFINE_float("seconds", 3.0, "Length of each of the two parts of a clip.", 0.5)
flags.DEFINE_integer("seed", 0, "Random seed.")

SAMPLE_RATE = 16000
VOICES = {"slt": 0.86, "rms": 1.15, "awb": 1.15, "kal16": 0.88}  # speed factors
PAUSE = "pau"
CONSONANTS = "bdfgklmnprstvz"


def speak(voice: str, text: str, path: str) -> list[tuple[str, float]]:
  """Writes a text as speech; returns its phones and the end of each phone in seconds."""
  command = ["flite", "-voice", voice, "-psdur", "-t", text, "-o", path]
  done = subprocess.run(command, check=True, capture_output=True, text=True)
  waveform, rate = soundfile.read(path, dtype="float32")
  faster = VOICES[voice]
  waveform = soxr.resample(waveform, rate * faster, SAMPLE_RATE, quality="HQ")
  waveform *= 0.5 / np.abs(waveform).max()
  soundfile.write(path, waveform, SAMPLE_RATE)
  phones = (entry.rpartition(":") for entry in done.stdout.split())
  return [(phone, float(end) / faster) for phone, _, end in phones]


def items(file: str, voice: str, phones: Sequence[tuple[str, float]]) -> Iterator[str]:
  """Yields a line of a Libri-Light item file for each phone without adjacent pauses."""
  for (before, onset), (phone, offset), (after, _) in zip(
    phones, phones[1:], phones[2:], strict=False
  ):
    if PAUSE not in (before, phone, after):
      yield f"{file} {onset:.4f} {offset:.4f} {phone} {before} {after} {voice}"


def non_word(word: str, known: set[str], rng: random.Random) -> str | None:
  """Returns a word that is not in `known` and differs from `word` only in the first consonant.

  Returns None if no such word exists, or if `word` does not begin with a consonant and a vowel.
  """
  if word[0] not in CONSONANTS or word[1] not in "aeiou":
    return None
  for consonant in rng.sample(CONSONANTS, len(CONSONANTS)):
    if consonant + word[1:] not in known:
      return consonant + word[1:]
  return None


def write_words(known: set[str], folder: str, rng: random.Random) -> Iterator[dict[str, str]]:
  """Writes words and non-words, and yields a manifest row for each pair and voice."""
  os.makedirs(folder)
  chosen = sorted(word for word in known if 5 <= len(word) <= 9)
  rng.shuffle(chosen)
  count = 0
  for word in chosen:
    other = non_word(word, known, rng)
    if other is None:
      continue
    for voice in VOICES:
      row = {"id": word, "category": "word"}
      for kind, spoken in (("good", word), ("bad", other)):
        row[kind] = f"words/{voice}_{spoken}.wav"
        speak(voice, spoken, os.path.join(folder, f"{voice}_{spoken}.wav"))
      yield row
    count += 1
    if count == FLAGS.words:
      return


def read_speakers(manifest: str) -> dict[str, np.ndarray]:
  """Returns each speaker's first clip in `valid` of at least 2 * --seconds, cut to this length.

  Exits with a message if there are fewer than two speakers.
  """
  length = round(FLAGS.seconds * SAMPLE_RATE)
  clips: dict[str, np.ndarray] = {}
  with open(manifest, encoding="utf-8") as file:
    for row in map(json.loads, filter(str.strip, file)):
      if row["split"] != "valid" or row["speaker"] in clips:
        continue
      waveform, rate = soundfile.read(
        os.path.join(os.path.dirname(manifest), row["path"]), dtype="float32", always_2d=True
      )
      waveform = soxr.resample(waveform.mean(axis=1), rate, SAMPLE_RATE)
      if len(waveform) >= 2 * length:
        clips[row["speaker"]] = waveform[: 2 * length]
  if len(clips) < 2:
    sys.exit(
      f"error: {manifest} has clips of {2 * FLAGS.seconds:g} s or more by {len(clips)} speakers in "
      "the split valid; add clips of at least two speakers, or omit --recordings"
    )
  return clips


def write_speakers(
  clips: Mapping[str, np.ndarray], folder: str, rng: random.Random
) -> Iterator[dict[str, str]]:
  """Writes clips with and without a change of speaker, and yields a manifest row for each pair."""
  os.makedirs(folder)
  length = round(FLAGS.seconds * SAMPLE_RATE)
  for speaker, waveform in clips.items():
    other = clips[rng.choice(sorted(set(clips) - {speaker}))][length:]
    level = np.sqrt(np.mean(waveform[length:] ** 2) / np.mean(other**2))
    changed = np.concatenate([waveform[:length], np.clip(other * level, -1.0, 1.0)])
    row = {"id": speaker, "category": "speaker"}
    for kind, sound in (("good", waveform), ("bad", changed)):
      row[kind] = f"speakers/{speaker}_{kind}.wav"
      soundfile.write(os.path.join(folder, f"{speaker}_{kind}.wav"), sound, SAMPLE_RATE)
    yield row


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unexpected argument {argv[1]!r}")
  if shutil.which("flite") is None:
    sys.exit("error: flite is not installed; apt install flite")
  if os.path.exists(FLAGS.output_dir):
    sys.exit(f"error: {FLAGS.output_dir} already exists; give another --output_dir or remove it")
  with open(FLAGS.text, encoding="utf-8") as file:
    sentences = [tuple(line.rstrip("\n").split("\t", 1)) for line in file if "\t" in line]
  clips = read_speakers(FLAGS.recordings) if FLAGS.recordings else {}
  rng = random.Random(FLAGS.seed)
  os.makedirs(os.path.join(FLAGS.output_dir, "abx"))
  lines = ["#file onset offset #phone prev-phone next-phone speaker"]
  for name, text in sentences[-FLAGS.sentences :]:
    for voice in VOICES:
      file = f"{voice}_{name}"
      phones = speak(voice, text, os.path.join(FLAGS.output_dir, "abx", f"{file}.wav"))
      lines += items(file, voice, phones)
  with open(os.path.join(FLAGS.output_dir, "abx.item"), "w", encoding="utf-8") as file:
    file.write("\n".join(lines) + "\n")
  known = {word for _, text in sentences for word in re.findall(r"[a-z]+", text.lower())}
  rows = list(write_words(known, os.path.join(FLAGS.output_dir, "words"), rng))
  if clips:
    rows += write_speakers(clips, os.path.join(FLAGS.output_dir, "speakers"), rng)
  with open(os.path.join(FLAGS.output_dir, "pairs.jsonl"), "w", encoding="utf-8") as file:
    file.writelines(json.dumps(row) + "\n" for row in rows)
  print(f"{len(lines) - 1} phones, {len(rows)} pairs in {FLAGS.output_dir}")


if __name__ == "__main__":
  app.run(main)
