r"""Creates a training corpus of synthetic speech: 16 kHz mono FLAC and a manifest.

  python launch/make_speech_corpus.py --text sentences.txt --output_dir speech_synth \
    --voices hibari,flite:slt,flite:rms --valid_voices flite:awb --hours 6 --jobs 4

A voice is ENGINE:VOICE, or ENGINE for its default voices. An engine is a command that reads a text
and writes an audio file: hibari, flite, festival, espeak-ng, or an engine that `--engine_command`
adds as NAME=COMMAND, for example

  --engine_command 'low=espeak-ng -v {voice} -p 20 -f {text_file} -w {wav}' --voices low:en-us

The command runs once for each clip, without a shell, with these replacements:
  {wav}        the file to write, of any sample rate; required
  {text}       the text as an argument; {text_file}: a file with the text.
               Without both, the command reads the text from standard input
  {voice}      the part after the colon in --voices
  {seed}       an integer that is specific to the clip, for engines with random numbers
  {tempo}      speed of speech, about 1; {stretch}: 1 / tempo; {words_per_minute}: 165 * tempo

Each line of the text file is `id<TAB>sentence` or a plain sentence. The split `valid`
has other sentences than `train` and, with --valid_voices, other voices. Rerun the same command to
resume a stopped run: finished clips are kept, and the corpus equals the corpus of an uninterrupted
run.
"""

import concurrent.futures
import hashlib
import itertools
import random
import re
import sys
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from absl import flags
from jaxtyping import Float

from audiolm_jax.core.command_line import check_given, run_cli
from audiolm_jax.core.errors import UserError
from audiolm_jax.data import speech_engines, synthetic_corpora
from audiolm_jax.data.speech_engines import Engine, EngineVoice, SpeechError
from audiolm_jax.io import audio

FLAGS = flags.FLAGS
flags.DEFINE_string("text", None, "Text file, one sentence per line.")
flags.DEFINE_string("output_dir", None, "Folder to create or to extend.")
flags.DEFINE_list("voices", [], "Voices, each ENGINE:VOICE or ENGINE.")
flags.DEFINE_multi_string("engine_command", [], "NAME=COMMAND of another engine; repeatable.")
flags.DEFINE_list("valid_voices", [], "Held-out voices, for `valid` only.")
flags.DEFINE_string("valid_text", None, "Text file of held-out sentences; removed from --text.")
flags.DEFINE_float("valid_fraction", 0.03, "Held-out share without --valid_text.", 0.0, 0.5)
flags.DEFINE_float("hours", 6.0, "Hours of training speech.", 0.0)
flags.DEFINE_float("valid_hours", 0.2, "Maximum hours of validation speech.", 0.0)
flags.DEFINE_integer("max_sentences", 3, "A clip is one to this many consecutive sentences.", 1)
flags.DEFINE_integer("voices_per_sentence", 1, "Voices that speak the same text.", 1)
flags.DEFINE_integer("probe_sentences", 0, "Held-out sentences for the split `probe`.", 0)
flags.DEFINE_list("speeds", ["1"], "Factors of pitch, formants and tempo, 0.92 to 1.08.")
flags.DEFINE_float("tempo_spread", 0.1, "{tempo} is 1 plus or minus up to this.", 0.0, 0.5)
flags.DEFINE_string("text_licence", "not stated", "Licence of the texts, for the manifest.")
flags.DEFINE_string("voice_licence", "not stated", "Licence of --engine_command, for the manifest.")
flags.DEFINE_float("max_failed_fraction", 0.02, "Share of failed clips, after five.", 0.0, 1.0)
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_integer("jobs", 1, "Parallel commands; the result does not depend on it.", 1)

SAMPLE_RATE = 16000
MOST_SPEED_CHANGE = 0.08  # larger changes sound less natural
FREE_FAILURES = 5


@dataclass(frozen=True)
class Passage:
  """Consecutive sentences of one clip, with the id of the first sentence."""

  id: str
  text: str


@dataclass(frozen=True)
class SpokenPassage:
  """A clip to synthesize.

  Attributes:
    split: split of the clip.
    round: number of complete passes over the texts of the split before this clip.
    voice: voice of the engine.
    passage: text of the clip.
    speed: factor that scales pitch, formants and tempo of the engine's output.
    tempo: tempo that the engine receives, relative to its default.
  """

  split: str
  round: int
  voice: EngineVoice
  passage: Passage
  speed: float = 1.0
  tempo: float = 1.0

  @property
  def speaker(self) -> str:
    """Name of the speaker: the voice, and the speed if it is not 1."""
    return self.voice.name if self.speed == 1 else f"{self.voice.name} x{self.speed:g}"

  @property
  def path(self) -> str:
    """Path relative to the manifest, in characters that all file systems support."""
    name = f"{_file_name(self.passage.id)}_{self.round}.flac"
    return f"{self.split}/{_file_name(self.speaker)}/{name}"


def main(argv: Sequence[str]) -> None:
  """Creates or extends the corpus, and reports its contents."""
  del argv
  check_given(FLAGS, "text", "output_dir", "voices")
  engines = dict(speech_engines.ENGINES) | dict(map(_engine_of_flag, FLAGS.engine_command))
  valid_voices = speech_engines.parse_voices(FLAGS.valid_voices, engines)
  named = speech_engines.parse_voices(FLAGS.voices, engines)
  voices = [voice for voice in named if voice not in valid_voices]
  _check_voices(voices, valid_voices, engines)
  speeds = _speeds()
  sentences = read_sentences(FLAGS.text)
  held_out = read_sentences(FLAGS.valid_text) if FLAGS.valid_text else []
  train, valid = split_sentences(sentences, held_out, FLAGS.valid_fraction)
  if not train:
    raise UserError(f"all sentences of {FLAGS.text} are held out; add others to train on")
  folder = Path(FLAGS.output_dir)
  settings = _settings([*voices, *valid_voices], engines, [train, valid])
  synthetic_corpora.begin(folder, settings)

  probes = _probes(valid)
  valid = [sentence for sentence in valid if sentence not in probes]
  all_voices = [*valid_voices, *voices]
  plans = {
    "probe": (SpokenPassage("probe", 0, voice, text) for text in probes for voice in all_voices),
    "valid": plan("valid", passages(valid), valid_voices or voices, speeds, range(1)),
    "train": plan("train", passages(train), voices, speeds, itertools.count()),
  }
  hours = {"probe": float("inf"), "valid": FLAGS.valid_hours, "train": FLAGS.hours}
  rows, failures = [], Failures()
  with concurrent.futures.ThreadPoolExecutor(FLAGS.jobs) as pool:
    try:
      for split, clips in plans.items():
        rows += write_clips(folder, clips, 3600 * hours[split], engines, pool, failures)
    finally:
      pool.shutdown(cancel_futures=True)
  synthetic_corpora.write_manifest(folder, rows)
  print(f"wrote {folder / 'manifest.jsonl'}; {failures.count} of {failures.tried} clips failed")


def split_sentences(
  sentences: list[Passage], held_out: list[Passage], fraction: float
) -> tuple[list[Passage], list[Passage]]:
  """Returns the sentences of `train` and `valid`, which have no sentence with equal words.

  Args:
    sentences: all sentences.
    held_out: the sentences of `valid`; if empty, `fraction` of `sentences` is drawn.
    fraction: approximate held-out share of the sentences.
  """
  texts = {_words(sentence.text) for sentence in held_out}
  if not held_out:
    # A draw depends only on the words: new sentences do not change the split of old sentences.
    draws = {words: random.Random(words).random() for words in (_words(s.text) for s in sentences)}
    texts = {words for words, draw in draws.items() if draw < fraction}
    if fraction and not texts:
      texts = {min(draws, key=draws.__getitem__)}
    held_out = [sentence for sentence in sentences if _words(sentence.text) in texts]
  return [sentence for sentence in sentences if _words(sentence.text) not in texts], held_out


def read_sentences(path: str) -> list[Passage]:
  """Reads a text file whose lines are `id<TAB>sentence` or a plain sentence.

  Raises:
    UserError: the file cannot be read, has a duplicate id, or is empty.
  """
  try:
    lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"cannot read {path}: {error}; give a UTF-8 text file") from error
  found: dict[str, Passage] = {}
  for number, line in enumerate(lines, start=1):
    name, tab, text = line.partition("\t")
    if not tab:
      name, text = f"line{number:06d}", line
    if not text.strip():
      continue
    if _file_name(name) in found:
      raise UserError(f"{path}, line {number}: the id {name!r} is not unique; remove one line")
    found[_file_name(name)] = Passage(name, text.strip())
  if not found:
    raise UserError(f"{path} has no sentences; write one per line")
  return list(found.values())


def passages(sentences: list[Passage]) -> list[Passage]:
  """Joins consecutive sentences into passages of 1 to --max_sentences sentences."""
  rng = random.Random(FLAGS.seed)
  joined, start = [], 0
  while start < len(sentences):
    group = sentences[start : start + rng.randint(1, FLAGS.max_sentences)]
    joined.append(Passage(group[0].id, " ".join(sentence.text for sentence in group)))
    start += len(group)
  return joined


def plan(
  split: str,
  texts: list[Passage],
  voices: list[EngineVoice],
  speeds: Sequence[float],
  rounds: Iterable[int],
) -> Iterator[SpokenPassage]:
  """Yields the clips of a split; each round contains all texts in a new random order."""
  rng = random.Random(f"{FLAGS.seed} {split}")
  for number in rounds:
    for text in rng.sample(texts, len(texts)):
      for voice in rng.sample(voices, min(FLAGS.voices_per_sentence, len(voices))):
        tempo = round(rng.uniform(1 - FLAGS.tempo_spread, 1 + FLAGS.tempo_spread), 3)
        yield SpokenPassage(split, number, voice, text, rng.choice(speeds), tempo)


class Failures:
  """Counts failed clips, and raises an error when too many clips have failed."""

  def __init__(self):
    self.tried = self.count = 0

  def add(self, clip: SpokenPassage, error: SpeechError) -> None:
    """Counts and reports a failed clip.

    Raises:
      UserError: too many clips have failed.
    """
    self.count += 1
    reason = f"{clip.passage.id} by {clip.speaker}: {error}"
    if self.count > FREE_FAILURES + FLAGS.max_failed_fraction * self.tried:
      raise UserError(
        f"{self.count} of {self.tried} clips failed, the last one {reason}; run the command "
        f"yourself to see why, or raise --max_failed_fraction={FLAGS.max_failed_fraction:g}"
      )
    print(f"skipped {reason}", file=sys.stderr, flush=True)


def write_clips(
  folder: Path,
  clips: Iterator[SpokenPassage],
  limit: float,
  engines: Mapping[str, Engine],
  pool: Executor,
  failures: Failures,
) -> list[dict[str, Any]]:
  """Writes clips until they have `limit` seconds in total or all clips are written.

  Args:
    folder: folder of the corpus.
    clips: the clips, in the planned order.
    limit: seconds of audio.
    engines: engines by name.
    pool: executes the commands of the engines.
    failures: counts failed clips.

  Returns:
    The manifest rows of the clips in the planned order.

  Raises:
    UserError: too many clips have failed.
  """
  rows: list[dict[str, Any]] = []
  seconds = 0.0
  pending: deque[tuple[SpokenPassage, Future | None]] = deque()
  while seconds < limit:
    # Commands run in advance, but files are written in the planned order and only until the limit,
    # so that the corpus depends neither on --jobs nor on interruptions.
    for clip in itertools.islice(clips, 2 * FLAGS.jobs - len(pending)):
      exists = (folder / clip.path).exists()
      pending.append((clip, None if exists else pool.submit(speak, clip, engines)))
    if not pending:
      break
    clip, future = pending.popleft()
    failures.tried += 1
    path = folder / clip.path
    if future:
      try:
        waveform = future.result()
      except SpeechError as error:
        failures.add(clip, error)
        continue
      synthetic_corpora.make_folder(path.parent)
      audio.write_audio(path, waveform, SAMPLE_RATE)
    rows.append(_row(clip, soundfile.info(path).frames / SAMPLE_RATE, engines))
    seconds += rows[-1]["seconds"]
    if len(rows) % 500 == 0:
      print(f"{clip.split}: {seconds / 3600:.2f} h, {len(rows)} clips", flush=True)
  for _, future in pending:
    if future:
      future.cancel()
  if rows:
    print(f"{rows[0]['split']}: {seconds / 3600:.2f} h, {len(rows)} clips", flush=True)
  return rows


def speak(clip: SpokenPassage, engines: Mapping[str, Engine]) -> Float[np.ndarray, " samples"]:
  """Synthesizes the waveform of a clip at 16 kHz.

  Raises:
    SpeechError: the engine failed, or the speech is too short.
  """
  voice, text = clip.voice, clip.passage.text
  seed = zlib.crc32(f"{FLAGS.seed} {clip.path}".encode()) >> 1
  sound = speech_engines.speak(
    voice.engine, engines[voice.engine], voice.voice, text, seed, clip.tempo
  )
  return speech_engines.finish(*sound, to_rate=SAMPLE_RATE, speed=clip.speed)


def _engine_of_flag(flag: str) -> tuple[str, Engine]:
  name, equals, command = flag.partition("=")
  if not equals or not re.fullmatch(r"[\w.-]+", name):
    raise UserError(f"--engine_command={flag!r} must be NAME=COMMAND, as in tts='tts -o {{wav}}'")
  return name, Engine(command, licence=FLAGS.voice_licence)


def _check_voices(
  voices: list[EngineVoice], valid_voices: list[EngineVoice], engines: Mapping[str, Engine]
) -> None:
  if not voices:
    raise UserError("--valid_voices holds out all of --voices; name others to train on")
  if len(voices) < FLAGS.voices_per_sentence:
    raise UserError(
      f"--voices_per_sentence={FLAGS.voices_per_sentence} is more than the {len(voices)} voices "
      "to train on; name more --voices"
    )
  names = [_file_name(voice.name) for voice in [*voices, *valid_voices]]
  for name in names:
    if names.count(name) > 1:
      raise UserError(f"two voices would have files under the name {name}; rename one")
  for name in dict.fromkeys(voice.engine for voice in [*voices, *valid_voices]):
    speech_engines.check_engine(name, engines[name])


def _speeds() -> list[float]:
  try:
    speeds = [float(speed) for speed in FLAGS.speeds]
  except ValueError:
    speeds = []
  # 1e-9 allows for the rounding error of 0.92 as a binary number.
  if not speeds or not all(abs(speed - 1) < MOST_SPEED_CHANGE + 1e-9 for speed in speeds):
    raise UserError(f"--speeds={','.join(FLAGS.speeds)} must be numbers from 0.92 to 1.08")
  return speeds


def _settings(
  voices: list[EngineVoice], engines: Mapping[str, Engine], sentences: list[list[Passage]]
) -> dict[str, Any]:
  """Returns the settings that determine the clips, by flag name."""
  names = ("max_sentences", "voices_per_sentence", "probe_sentences", "speeds", "tempo_spread")
  return {
    **{name: FLAGS[name].value for name in (*names, "seed", "voices", "valid_voices")},
    "engine_command": {v.engine: engines[v.engine].command for v in voices},
    "text": hashlib.sha256(repr(sentences).encode()).hexdigest(),
  }


def _probes(valid: list[Passage]) -> list[Passage]:
  plain = [sentence for sentence in valid if 40 <= len(sentence.text) <= 120]
  return random.Random(FLAGS.seed).sample(plain, min(FLAGS.probe_sentences, len(plain)))


def _row(clip: SpokenPassage, seconds: float, engines: Mapping[str, Engine]) -> dict[str, Any]:
  voice = clip.voice
  return {
    "path": clip.path,
    "seconds": round(seconds, 3),
    "speaker": clip.speaker,
    "split": clip.split,
    "sentence": clip.passage.id,
    "text": clip.passage.text,
    "licence": f"text {FLAGS.text_licence}; voice {engines[voice.engine].licence}",
    "source": f"{voice.engine} {voice.voice}".strip(),
  }


def _words(text: str) -> str:
  return " ".join(re.findall(r"\w+", text.casefold()))


def _file_name(name: str) -> str:
  return re.sub(r"[^\w.+-]", "_", name)


if __name__ == "__main__":
  run_cli(main)
