r"""Creates pairs of recordings for speech to speech: spoken values in English and in Spanish.

  python launch/make_number_pairs.py --output_dir pairs --pairs 8000 --jobs 2 \
    --english_voices espeak-ng:en-us,espeak-ng:en-gb --valid_english_voices espeak-ng:en-029 \
    --spanish_voices espeak-ng:es,espeak-ng:es-419
  launch/train_bundle.sh pairs/manifest.jsonl translator --preset small --pairs

The values are the numbers 0 to 9999, all dates without a year and all minutes of a day. The share
of each of these kinds is proportional to the square root of its number of values, so that dates are
not rare. No pair of the split `train` contains a value of the split `valid`. The manifest has a
row for each Spanish clip, with the English clip as `source_path`. It also has a row for each
English clip, so that tokenizers learn both languages. The field `value` of a row names the value,
and `source` its kind.

A voice is ENGINE:VOICE or ENGINE. The help of make_speech_corpus.py describes the engines and
--engine_command. Rerun the same command to resume a stopped run; a larger --pairs extends a
finished corpus.
"""

import itertools
import math
import random
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
from absl import flags

from audiolm_jax.core.command_line import check_given, run_cli
from audiolm_jax.core.errors import UserError
from audiolm_jax.data import manifest, speech_engines, spoken_values, synthetic_corpora
from audiolm_jax.data.speech_engines import Engine, EngineVoice, SpeechError
from audiolm_jax.data.spoken_values import Value, ValueKind
from audiolm_jax.io import audio

FLAGS = flags.FLAGS
flags.DEFINE_string("output_dir", None, "Folder to create or to extend.")
flags.DEFINE_list("english_voices", [], "Voices of the sources, each ENGINE:VOICE or ENGINE.")
flags.DEFINE_list("spanish_voices", [], "Voices of the translations.")
flags.DEFINE_list("valid_english_voices", [], "Held-out voices of sources, for `valid` only.")
flags.DEFINE_multi_string("engine_command", [], "NAME=COMMAND of another engine; repeatable.")
flags.DEFINE_string("voice_licence", "not stated", "Licence of --engine_command, for the manifest.")
flags.DEFINE_integer("pairs", None, "Pairs to train on; default: as many as values.", 1)
flags.DEFINE_integer("valid_pairs", 200, "Maximum number of held-out pairs.", 1)
flags.DEFINE_float("valid_fraction", 0.05, "Held-out share of the values.", 0.01, 0.5)
flags.DEFINE_float("tempo_spread", 0.1, "{tempo} is 1 plus or minus up to this.", 0.0, 0.5)
flags.DEFINE_float("max_failed_fraction", 0.01, "Accepted share of failed pairs.", 0.0, 1.0)
flags.DEFINE_integer("seed", 0, "Random seed.")
flags.DEFINE_integer("jobs", 1, "Parallel commands; the result does not depend on it.", 1)

SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class Utterance:
  """A clip to synthesize; `path` is relative to the manifest, `tempo` to the engine's default."""

  path: str
  text: str
  voice: EngineVoice
  tempo: float


@dataclass(frozen=True)
class Pair:
  """A value, spoken in English (`source`) and in Spanish (`target`)."""

  value: Value
  split: str
  source: Utterance
  target: Utterance


def main(argv: Sequence[str]) -> None:
  """Creates or extends the pairs, and reports their number and hours."""
  del argv
  check_given(FLAGS, "output_dir", "english_voices", "spanish_voices")
  engines = dict(speech_engines.ENGINES) | dict(map(_engine_of_flag, FLAGS.engine_command))
  english, spanish, held_out = (
    speech_engines.parse_voices(FLAGS[name].value or [], engines)
    for name in ("english_voices", "spanish_voices", "valid_english_voices")
  )
  english = [voice for voice in english if voice not in held_out]
  if not english:
    raise UserError("--valid_english_voices holds out all of --english_voices; name others")
  for name in dict.fromkeys(voice.engine for voice in (*english, *spanish, *held_out)):
    speech_engines.check_engine(name, engines[name])
  values = spoken_values.values()
  train = [value for value in values if not value.is_held_out(FLAGS.valid_fraction)]
  valid = [value for value in values if value.is_held_out(FLAGS.valid_fraction)]
  pairs = [
    *itertools.islice(plan("train", train, english, spanish), FLAGS.pairs or len(train)),
    *itertools.islice(
      plan("valid", valid, held_out or english, spanish), min(FLAGS.valid_pairs, len(valid))
    ),
  ]
  folder = Path(FLAGS.output_dir)
  synthetic_corpora.begin(folder, _settings())
  failed = manifest.SkipLog(len(pairs), FLAGS.max_failed_fraction)

  def make(pair: Pair) -> list[dict[str, Any]]:
    try:
      return make_pair(folder, pair, engines)
    except SpeechError as error:
      failed.skip(pair.target.path, str(error))
      return []

  with ThreadPoolExecutor(FLAGS.jobs) as pool:
    try:
      rows = [row for made in pool.map(make, pairs) for row in made]
    finally:
      pool.shutdown(cancel_futures=True)
  synthetic_corpora.write_manifest(folder, rows)
  hours = sum(row["seconds"] for row in rows) / 3600
  print(f"wrote {folder / 'manifest.jsonl'}: {len(rows) // 2} pairs, {hours:.2f} h of audio")
  if failed.skipped:
    print(failed.report())


def plan(
  split: str,
  values: Sequence[Value],
  english: Sequence[EngineVoice],
  spanish: Sequence[EngineVoice],
) -> Iterator[Pair]:
  """Yields pairs without end: of a random kind, with each value of a kind once in each round.

  The random numbers depend on --seed.
  """
  rng = random.Random(f"{FLAGS.seed} {split}")
  kinds = [[value for value in values if value.kind is kind] for kind in ValueKind]
  kinds = [of_kind for of_kind in kinds if of_kind]
  shares = [math.sqrt(len(of_kind)) for of_kind in kinds]
  rounds = [_rounds(of_kind, rng) for of_kind in kinds]

  def tempo() -> float:
    return round(rng.uniform(1 - FLAGS.tempo_spread, 1 + FLAGS.tempo_spread), 3)

  while True:
    number, value = next(rng.choices(rounds, shares)[0])
    source, target = (
      Utterance(
        f"{split}/{language}/{value.id}_{number}.flac",
        f"{text[0].upper()}{text[1:]}".rstrip(".") + ".",
        rng.choice(voices),
        tempo(),
      )
      for language, voices, text in (
        ("en", english, spoken_values.english(value)),
        ("es", spanish, spoken_values.spanish(value)),
      )
    )
    yield Pair(value, split, source, target)


def _rounds(values: Sequence[Value], rng: random.Random) -> Iterator[tuple[int, Value]]:
  """Yields the number of the round and a value, in endless rounds over all values."""
  for number in itertools.count():
    for value in rng.sample(values, len(values)):
      yield number, value


def make_pair(folder: Path, pair: Pair, engines: Mapping[str, Engine]) -> list[dict[str, Any]]:
  """Writes the missing clips of a pair and returns the manifest rows of both clips.

  Raises:
    SpeechError: an engine failed, or the speech is too short.
  """
  rows: list[dict[str, Any]] = []
  for one in (pair.target, pair.source):
    path, engine = folder / one.path, engines[one.voice.engine]
    if not path.exists():
      seed = zlib.crc32(f"{FLAGS.seed} {one.path}".encode()) >> 1
      sound = speech_engines.speak(
        one.voice.engine, engine, one.voice.voice, one.text, seed, one.tempo
      )
      waveform = speech_engines.finish(*sound, to_rate=SAMPLE_RATE)
      path.parent.mkdir(parents=True, exist_ok=True)
      audio.write_audio(path, waveform, SAMPLE_RATE)
    rows.append(
      {
        "path": one.path,
        **({"source_path": pair.source.path} if one is pair.target else {}),
        "split": pair.split,
        "speaker": one.voice.name,
        "seconds": round(soundfile.info(path).frames / SAMPLE_RATE, 3),
        "text": one.text,
        "source": str(pair.value.kind),
        "value": pair.value.id,
        "licence": f"voice {engine.licence}",
      }
    )
  return rows


def _engine_of_flag(flag: str) -> tuple[str, Engine]:
  name, equals, command = flag.partition("=")
  if not equals or not re.fullmatch(r"[\w.-]+", name):
    raise UserError(f"--engine_command={flag!r} must be NAME=COMMAND, as in tts='tts -o {{wav}}'")
  return name, Engine(command, licence=FLAGS.voice_licence)


def _settings() -> dict[str, Any]:
  """Returns the values of the flags that determine the clips, by flag name."""
  names = ("english_voices", "spanish_voices", "valid_english_voices", "engine_command")
  names += ("valid_fraction", "tempo_spread", "seed")
  return {name: FLAGS[name].value for name in names}


if __name__ == "__main__":
  run_cli(main)
