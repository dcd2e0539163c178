r"""Continues or resynthesizes a recording, speaks a text, or samples audio without a prompt.

  python -m audiolm_jax.sample --prompt in.wav --output out.wav
  python -m audiolm_jax.sample --output out.wav --mode unconditional --num_samples 4
  python -m audiolm_jax.sample --prompt in.wav --output out.wav --mode resynthesis
  python -m audiolm_jax.sample --prompt content.wav --voice voice.wav --output out.wav \
    --mode resynthesis
  python -m audiolm_jax.sample --text "Good morning." --voice voice.wav --output out.wav
  python -m audiolm_jax.sample --source source.wav --voice voice.wav --output out.wav

The examples show, in this order: a continuation, audio without a prompt, the resynthesis of a
recording, a resynthesis with the voice of another recording, text to speech, and speech to speech.
With several samples, out.wav becomes out_1.wav, out_2.wav and so on.
"""

import functools
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from audiolm_jax.core import arguments, compilation_cache, ranges
from audiolm_jax.core.command_line import flags, run_cli
from audiolm_jax.core.errors import UserError
from audiolm_jax.io import audio, content_credentials, files, plotting, provenance, token_file
from audiolm_jax.io.content_credentials import Credentials
from audiolm_jax.io.storage import PathLike
from audiolm_jax.lm.stages import PAPER_TEMPERATURES

if TYPE_CHECKING:
  import numpy as np

  from audiolm_jax.bundles import Bundle

FLAGS = flags.FlagValues()


def _passes(value: str) -> tuple[int, ...]:
  return () if value == "point" else tuple(map(int, value.split("/")))


class _Option(NamedTuple):
  """An option of sampling whose values are given per stage.

  Attributes:
    read: converts the text of a value; raises ValueError if the text is invalid.
    values: description of the values for `--help`.
  """

  read: Callable[[str], float | tuple[int, ...]]
  values: str


_OPTIONS = {
  "temperature": _Option(float, "float"),
  "top_k": _Option(int, "int"),
  "top_p": _Option(float, "float"),
  "guidance": _Option(float, "float, of a parallel stage"),
  "lookahead": _Option(float, "seconds of new audio in the first window of a parallel stage"),
  "passes": _Option(_passes, "passes of each level of a parallel stage, as 16/4/1, or point"),
}


# The mode in the provenance metadata of speech, by the flag with the text or recording to speak.
_MODES = {"text": "speech", "source": "speech_to_speech"}


def _define_flags() -> None:
  def define(kind: str, name: str, default: object, text: str) -> None:
    getattr(flags, f"DEFINE_{kind}")(name, default, text, flag_values=FLAGS)

  def choose(name: str, default: str, text: str, *choices: str) -> None:
    flags.DEFINE_enum(name, default, choices, text, flag_values=FLAGS)

  define("string", "prompt", None, "The audio file to continue.")
  define("string", "text", None, "A text to speak, instead of a prompt.")
  define(
    "string", "source", None,
    "An audio file for speech to speech, instead of a prompt; its content is spoken, such as in "
    "translation.",
  )  # fmt: skip
  define(
    "string", "voice", None,
    "With --text, --source or in resynthesis, an audio file of the voice to use.",
  )  # fmt: skip
  define(
    "float", "rate", 1.0,
    "With --text or --source, the speaking rate; 1.25 takes 1 / 1.25 of the time.",
  )  # fmt: skip
  define(
    "integer", "candidates", 1,
    "With --text or --source, the likeliest of this number of semantic token rows per sentence or "
    "piece is used.",
  )  # fmt: skip
  define("string", "output", None, "The audio file to write: .wav, .flac, .ogg, .mp3 or .aiff.")
  define("string", "bundle", "speech", "Name or folder of the bundle to sample with.")
  define(
    "float", "prompt_seconds", 3.0,
    "Seconds of the prompt that are used, from its beginning. With --voice, of the voice.",
  )  # fmt: skip
  define(
    "float", "duration", None,
    "Seconds of new audio; default: 7. In resynthesis, seconds of the prompt; default: all.",
  )  # fmt: skip
  define("integer", "num_samples", 1, "Number of samples.")
  define("integer", "seed", 0, "Random seed; the same seed gives the same file.")
  choose(
    "mode", "continuation", "What is given and what is sampled; see docs/how-to/sample.md.",
    "continuation", "unconditional", "resynthesis",
  )  # fmt: skip
  for stage, temperature in PAPER_TEMPERATURES.items():
    text = f"0 selects the likeliest token. Default: that of the bundle, else {temperature}."
    define("float", f"temperature_{stage}", None, text)
    define("integer", f"top_k_{stage}", None, "Draw among the k likeliest tokens; 0 for all.")
    define("float", f"top_p_{stage}", None, "Draw among the likeliest tokens whose sum reaches p.")
  for option, (_, values) in _OPTIONS.items():
    text = f"STAGE=VALUE,...: an option by the names of stages; {values}."
    define("list", option, [], text)
  choose(
    "prompt_audio", "codec",
    "The prompt in the output: decoded by the codec, its original samples, or omitted.",
    "codec", "original", "none",
  )  # fmt: skip
  define(
    "string", "watermark", None,
    "Strength of the mark in the sampled codes, or off. Default: that of the bundle.",
  )  # fmt: skip
  define("string", "watermark_key", None, "Key file of the mark; default: the bundle's public key.")
  define(
    "string", "watermark_payload", None,
    "2 or 8 hexadecimal digits that the mark carries; detect reads them from some seconds.",
  )  # fmt: skip
  define(
    "string", "c2pa_certificate", None,
    "PEM file of a certificate chain: sign a C2PA manifest in .wav, .mp3 or .flac files.",
  )  # fmt: skip
  define("string", "c2pa_private_key", None, "PEM file of the certificate's private key.")
  define("bool", "save_tokens", False, "Also write the tokens, to a .npz file next to --output.")
  define("string", "plot", None, "Also plot a spectrogram to this .png file; needs matplotlib.")


_define_flags()


def main(argv: Sequence[str]) -> None:
  """Samples audio, writes the files and prints the computing time of each stage."""
  del argv
  _check_flags()
  mark, credentials = _watermark(), _credentials()
  started = time.perf_counter()
  compilation_cache.enable()
  from audiolm_jax import bundles

  bundle = bundles.load_bundle(FLAGS.bundle)
  if _spoken_flag() is not None:
    _speak(bundle, mark, credentials, started)
    return
  seconds = "duration" if FLAGS.mode == "resynthesis" else "prompt_seconds"
  waveform = None if FLAGS.prompt is None else _load(FLAGS.prompt, seconds, bundle)
  result = bundle.continue_audio(
    waveform,
    bundle.sample_rate,
    voice=None if FLAGS.voice is None else _load(FLAGS.voice, "prompt_seconds", bundle),
    duration=_duration(),
    seed=FLAGS.seed,
    prompt_seconds=FLAGS.prompt_seconds,
    num_samples=FLAGS.num_samples,
    mode=FLAGS.mode,
    prompt_audio=FLAGS.prompt_audio,
    progress=_progress_bar() if sys.stderr.isatty() else None,
    **_options(bundle),
    **mark,
  )
  rows = result.waveform.reshape(-1, result.waveform.shape[-1])
  for index, waveform in enumerate(rows):
    one = FLAGS.num_samples == 1
    streams = result.tokens.streams
    made = {key: tokens if one else tokens[index] for key, tokens in streams.items()}
    _write(bundle, index, waveform, made, result.prompt_samples, result.watermark, credentials)
  _report(bundle, result.timings, result.new_seconds, time.perf_counter() - started)


def _speak(
  bundle: "Bundle", mark: dict[str, Any], credentials: Credentials | None, started: float
) -> None:
  """Speaks the text or the source, writes the files and prints the computing time of each stage.

  Args:
    bundle: the bundle that samples.
    mark: see `_watermark`.
    credentials: see `_credentials`.
    started: `time.perf_counter()` at the start of the command.
  """
  settings: Any = {
    "voice": None if FLAGS.voice is None else _load(FLAGS.voice, "prompt_seconds", bundle),
    "prompt_seconds": FLAGS.prompt_seconds,
    "seed": FLAGS.seed,
    "rate": FLAGS.rate,
    "candidates": FLAGS.candidates,
    "num_samples": FLAGS.num_samples,
    "progress": _progress_bar() if sys.stderr.isatty() else None,
    **_options(bundle),
    **mark,
  }
  if FLAGS.text is not None:
    results = bundle.speak(FLAGS.text, sample_rate=bundle.sample_rate, **settings)
  else:
    source = _load(FLAGS.source, None, bundle)
    results = bundle.speak_from(source, bundle.sample_rate, **settings)
  results = results if isinstance(results, list) else [results]
  timings: dict[str, float] = {}
  for index, result in enumerate(results):
    streams = result.tokens.streams
    _write(bundle, index, result.waveform, streams, 0, result.watermark, credentials)
    for name, seconds in result.timings.items():
      timings[name] = timings.get(name, 0.0) + seconds
  made = sum(result.new_seconds for result in results)
  _report(bundle, timings, made, time.perf_counter() - started)


def _options(bundle: "Bundle") -> dict[str, Any]:
  """Returns the values of all options in `_OPTIONS` that the flags set, by option and stage."""
  return {option: _by_stage(option, bundle.stages) for option in _OPTIONS}


def _by_stage(option: str, stages: Iterable[str]) -> dict[str, Any]:
  """Returns the values of one option that the flags set, by stage.

  Raises:
    UserError: a value is invalid.
  """
  found = {}
  for stage in stages:
    name = f"{option}_{stage}"
    if name in FLAGS and FLAGS[name].value is not None:
      found[stage] = FLAGS[name].value
  for entry in FLAGS[option].value or ():
    stage, _, value = entry.partition("=")
    try:
      found[stage] = _OPTIONS[option].read(value)
    except ValueError:
      raise UserError(f"--{option} {entry!r} is not STAGE=VALUE, such as coarse=1") from None
  return found


def _check_flags() -> None:
  """Raises `UserError` if flags or files are invalid, before the bundle is loaded."""
  if not FLAGS.output:
    raise UserError("--output is required: the audio file to write")
  spoken = _spoken_flag()
  if spoken is not None:
    _check_speech(spoken)
  elif FLAGS.rate != 1.0 or FLAGS.candidates != 1:
    raise UserError("--rate and --candidates are for --text and --source; omit them")
  elif FLAGS.mode == "unconditional" and FLAGS.prompt is not None:
    raise UserError("--mode unconditional takes no --prompt; omit one of them")
  elif FLAGS.mode != "unconditional" and FLAGS.prompt is None:
    raise UserError(f"--prompt is required for {FLAGS.mode}; --mode unconditional needs no prompt")
  elif FLAGS.voice is not None and FLAGS.mode != "resynthesis":
    raise UserError(
      "--voice is for --text, --source and --mode resynthesis; omit it, or set the mode"
    )
  arguments.whole(FLAGS.num_samples, "--num_samples", ranges.SAMPLES_PER_PROMPT)
  arguments.whole(FLAGS.seed, "--seed", ranges.SEEDS)
  if FLAGS.plot is not None:
    if Path(FLAGS.plot).suffix.lower() != ".png":
      raise UserError(f"--plot {FLAGS.plot} must end in .png")
    plotting.check_can_plot()
  audio.check_output_format(FLAGS.output)
  inputs = [path for path in (FLAGS.prompt, FLAGS.source, FLAGS.voice) if path is not None]
  for index in range(FLAGS.num_samples):
    for path in (FLAGS.output, _tokens_path(), FLAGS.plot):
      if path is not None:
        files.check_writable(_numbered(path, index), inputs)
  for path in inputs:
    audio.check_readable(path)


def _spoken_flag() -> str | None:
  """Returns "text" or "source", the flag of the text or recording to speak; None without both."""
  return next((name for name in _MODES if FLAGS[name].value is not None), None)


def _check_speech(spoken: str) -> None:
  for name in ("source", "prompt", "mode", "duration", "prompt_audio"):
    if name != spoken and FLAGS[name].present:
      raise UserError(f"--{spoken} takes no --{name}; omit one of them")


def _duration() -> float | None:
  if FLAGS.duration is None and FLAGS.mode != "resynthesis":
    return 7.0
  return FLAGS.duration


def _watermark() -> dict[str, Any]:
  """Returns the watermark arguments of sampling; an argument is None if its flag is not set.

  Raises:
    UserError: the strength, the key file or the payload is invalid.
  """
  value, key, payload = FLAGS.watermark, None, None
  if value not in (None, "off"):
    try:
      value = float(value)
    except ValueError:
      raise UserError(f"--watermark {value!r} is neither off nor a strength, such as 2") from None
  if FLAGS.watermark_key is not None:
    from audiolm_jax.detection.watermark import read_key

    key = read_key(FLAGS.watermark_key)
  if FLAGS.watermark_payload is not None:
    from audiolm_jax.detection.watermark import payload_of_hex

    payload = payload_of_hex(FLAGS.watermark_payload)
  return {"watermark": value, "watermark_key": key, "watermark_payload": payload}


def _credentials() -> Credentials | None:
  """Returns the credentials that sign C2PA manifests, or None if no certificate is given.

  Raises:
    UserError: one of certificate and key is missing or invalid, or the format is not supported.
  """
  given = FLAGS.c2pa_certificate, FLAGS.c2pa_private_key
  if given == (None, None):
    return None
  if None in given:
    raise UserError("--c2pa_certificate and --c2pa_private_key are needed together; give both")
  content_credentials.check_format(FLAGS.output)
  return content_credentials.read_credentials(*given)


def _load(path: str, limit: str | None, bundle: "Bundle") -> "np.ndarray":
  """Reads the beginning of an audio file at the bundle's sample rate.

  Args:
    path: the audio file.
    limit: name of the flag with the number of seconds to read; None to read the whole file.
    bundle: the bundle that samples.

  Raises:
    UserError: the number of seconds is invalid, or the file is unreadable, too short or silent.
  """
  from audiolm_jax.bundles.settings import PROMPT_SECONDS, check_prompt

  seconds = None if limit is None else FLAGS[limit].value
  if seconds is not None:
    seconds = arguments.number(seconds, f"--{limit}", PROMPT_SECONDS)
  waveform = audio.load_audio(path, bundle.sample_rate, seconds=seconds)
  check_prompt(waveform, bundle.sample_rate, path)
  return waveform


def _write(
  bundle: "Bundle",
  index: int,
  waveform: "np.ndarray",
  streams: Mapping[str, "np.ndarray"],
  prompt_samples: int,
  watermark: float,
  credentials: Credentials | None,
) -> None:
  """Writes the files of one sample.

  Args:
    bundle: the bundle that generated the sample.
    index: index of the sample, from 0.
    waveform: [samples], the audio.
    streams: the tokens, by stream.
    prompt_samples: length of the prompt at the beginning of the waveform, in audio samples.
    watermark: strength of the watermark in the codes; 0 for no watermark.
    credentials: the credentials that sign the C2PA manifest; None for no manifest.
  """
  prompt = 0 if FLAGS.prompt_audio == "none" else prompt_samples
  spoken = _spoken_flag()
  tags = provenance.Provenance(
    bundle=bundle.name,
    token_hash=bundle.token_hash,
    mode=FLAGS.mode if spoken is None else _MODES[spoken],
    seed=FLAGS.seed,
    sample=index,
    prompt_seconds=prompt / bundle.sample_rate,
    prompt_audio=FLAGS.prompt_audio,
    watermark=watermark,
  ).tags()
  path = _numbered(FLAGS.output, index)
  sign = None
  if credentials is not None:
    sign = functools.partial(
      content_credentials.sign, path=path, credentials=credentials, prompt=prompt > 0
    )
  audio.write_audio(path, waveform, bundle.sample_rate, tags, sign)
  print(f"{path}: {len(waveform) / bundle.sample_rate:.2f} s")
  tokens_path = _tokens_path()
  if tokens_path is not None:
    from audiolm_jax.bundles import token_files

    tokens = token_files.of_sample(bundle, streams)
    token_file.save_tokens(_numbered(tokens_path, index), tokens)
  if FLAGS.plot is not None:
    plotting.plot_continuation(_numbered(FLAGS.plot, index), waveform, bundle.sample_rate, prompt)


def _report(bundle: "Bundle", timings: dict[str, float], made: float, wall: float) -> None:
  asked = _by_stage("temperature", bundle.stages)
  for stage, value in bundle.temperatures.items():
    if stage not in asked:
      print(f"{stage} temperature {value:g}, the default of {bundle.name}")
  parts = [f"{name} {seconds:.2f} s" for name, seconds in timings.items()]
  spent = sum(timings.values())
  print(
    f"{', '.join(parts)}: {made:.2f} s of audio in {spent:.2f} s, "
    f"real-time factor {spent / made:.2f}; {wall:.1f} s in total"
  )


def _tokens_path() -> str | None:
  return str(Path(FLAGS.output).with_suffix(".npz")) if FLAGS.save_tokens else None


def _numbered(path: PathLike, index: int) -> str:
  if FLAGS.num_samples == 1:
    return str(path)
  path = Path(path)
  return str(path.with_name(f"{path.stem}_{index + 1}{path.suffix}"))


def _progress_bar() -> Callable[[str, int, int], None]:
  from tqdm import tqdm

  bars: dict[str, tqdm] = {}

  def show(stage: str, done: int, total: int) -> None:
    if stage not in bars:
      bars[stage] = tqdm(total=total, desc=stage, unit="token")
    bars[stage].update(done - bars[stage].n)
    if done >= total:
      bars.pop(stage).close()

  return show


if __name__ == "__main__":
  run_cli(main, FLAGS)
