"""Continuations beside what really followed: who is heard, level, pitch, pauses, loops; how far
from real sound as a whole, and how far from each other."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from audiolm_jax.codec.interface import Codec
from audiolm_jax.core.errors import DataError
from audiolm_jax.evaluation import continuation as sound
from audiolm_jax.evaluation import diversity, frechet, plots
from audiolm_jax.evaluation import tokens as token_metrics
from audiolm_jax.evaluation.clips import EvalClip, load_pieces, pieces_to_continue
from audiolm_jax.evaluation.codec import through_codec
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.recognition import normalised_words
from audiolm_jax.evaluation.report import Better, ClipFigure, Row, SuiteResult
from audiolm_jax.evaluation.speaker import (
  SpeakerEncoder,
  SpeakerModel,
  fit_speaker_model,
  identify,
)
from audiolm_jax.evaluation.speech import (
  NO_MEASURES,
  Description,
  SpeechMeasures,
  find_measures,
  opinion_figures,
  word_figures,
)
from audiolm_jax.evaluation.statistics import mean_estimate
from audiolm_jax.evaluation.tokens import Tokenize
from audiolm_jax.io import audio
from audiolm_jax.lm.tokens import collapse_repeats

NUM_CANDIDATES = 10
_HEARD = 10  # continuations on the page of results
_LEAST_VOICE_SECONDS = 2.0  # of real speech after the prompt, for each of two pieces
_DRAWS = 20
_DIVERSE_PROMPTS = 8  # that several samples are drawn of
_SILENT_SHARE = 0.05  # of frames with sound
_STATISTICS = (
  "active_share",
  "longest_pause_seconds",
  "voiced_share",
  "pitch_range_semitones",
  "centroid_hz",
  "clicks_per_second",
  "clipped_share",
)
_PITCH_RANGE = {"speech": (65.0, 450.0), "music": (50.0, 1200.0)}


@dataclasses.dataclass(frozen=True)
class Continuation:
  """What a prompt was continued with.

  Attributes:
    waveform: the new part alone.
    seconds_taken: wall time of making it.
  """

  waveform: Float[np.ndarray, " samples"]
  seconds_taken: float


Continue = Callable[[Float[np.ndarray, " samples"], int], Continuation]
Draw = Callable[[Float[np.ndarray, " samples"], int], Float[np.ndarray, "draws samples"]]


def run(bundle: Any, options: Options) -> SuiteResult:
  """Continues new prompts, and keeps the first ten to be heard and seen."""
  model = None
  if options.domain is Domain.SPEECH:
    train = load_pieces(
      options.train_data or options.data,
      "train",
      bundle.sample_rate,
      max_clips=options.max_speaker_clips,
      piece_seconds=options.piece_seconds,
      least_seconds=2.0,
      seed=options.seed,
    )
    model = codec_speaker_model(bundle.codec, train)
  result = continuation_suite(
    bundle.codec,
    bundle.semantic.tokenize_long,
    continuer(bundle, options.duration, bundle.sample_rate),
    pieces_to_continue(options, bundle.sample_rate, 2 * _LEAST_VOICE_SECONDS),
    options.domain,
    prompt_seconds=options.prompt_seconds,
    speaker_model=model,
    measures=find_measures(options),
    draw=_drawer(bundle, options.duration, options.samples_per_prompt),
    seed=options.seed,
  )
  made, names = result.details.pop("continuations"), result.details["clips"]
  captions = [f"{name}: prompt and continuation" for name in names]
  result.details["sounds"] = save_sounds(
    options.output_dir, "continuation", made, captions, bundle.sample_rate
  )
  picture = "continuations.png"
  plots.save_spectrogram_grid(
    os.path.join(options.output_dir, picture),
    made[:_HEARD],
    bundle.sample_rate,
    titles=names[:_HEARD],
    prompt_seconds=options.prompt_seconds,
  )
  result.details["pictures"] = {"Prompts (left of the line) and continuations": picture}
  return result


def continuation_suite(
  codec: Codec,
  tokenize: Tokenize,
  continue_prompt: Continue,
  clips: Sequence[EvalClip],
  domain: Domain,
  *,
  prompt_seconds: float = 3.0,
  speaker_model: SpeakerModel | None = None,
  measures: SpeechMeasures = NO_MEASURES,
  draw: Draw | None = None,
  seed: int = 0,
) -> SuiteResult:
  """Continues the beginning of every clip and sets it beside what really followed.

  The real continuation passes through the codec too, so that its artefacts give nothing away.

  Args:
    tokenize: semantic tokens of a waveform, to look for loops in.
    continue_prompt: makes a continuation of a prompt, given a seed.
    clips: longer than the prompt; for the speaker figure, of at least two speakers.
    speaker_model: adds the speaker figure.
    measures: add words, quality, and the speaker figure by another embedding.
    draw: makes several continuations of a prompt, given a seed; adds how much they differ.
  """
  rate = codec.spec.sample_rate
  cut = round(prompt_seconds * rate)
  clips = [clip for clip in clips if len(clip.waveform) > cut + rate]
  if not clips:
    raise DataError(f"no clip is longer than {prompt_seconds + 1:g} s")
  through = [through_codec(codec, clip.waveform) for clip in clips]
  heard, made, real, recorded = [], [], [], []
  for index, (clip, decoded) in enumerate(zip(clips, through, strict=True)):
    heard.append(decoded[:cut])
    made.append(continue_prompt(clip.waveform[:cut], seed + index))
    real.append(decoded[cut : cut + len(made[-1].waveform)])
    recorded.append(clip.waveform[cut : cut + len(made[-1].waveform)])
  rows = _sound_rows(heard, [m.waveform for m in made], real, rate, domain)
  for label, parts in (("continuation", [m.waveform for m in made]), ("real", real)):
    rows += _token_rows(codec, tokenize, parts, label)
  rows += _distance_rows([m.waveform for m in made], real, recorded, rate, seed)
  if draw is not None:
    chosen = range(min(_DIVERSE_PROMPTS, len(clips)))
    drawn = [draw(clips[i].waveform[:cut], seed + i) for i in chosen]
    rows += _diversity_rows(tokenize, drawn, [real[i] for i in chosen], rate)
  rows += _speech_rows(measures, codec, [m.waveform for m in made], real, recorded)
  # The first ones compile.
  speeds = [len(m.waveform) / rate / m.seconds_taken for m in made[2:] or made]
  rows.append(
    Row("continuation", "audio seconds made per second", mean_estimate(speeds), floor=1.0, aim=3.0)
  )
  details: dict[str, Any] = {
    "clips": [clip.id for clip in clips],
    "prompt_seconds": prompt_seconds,
    "continuations": [np.concatenate([h, m.waveform]) for h, m in zip(heard, made, strict=True)],
  }
  encoders = {"speaker": (speaker_model, ""), "speaker by GE2E": (measures.speaker, " by GE2E")}
  for name, (encoder, label) in reversed(encoders.items()):
    if encoder is not None:
      voices, details[name] = _speaker_rows(encoder, label, clips, through, made, rate, cut, seed)
      rows = voices + rows
  return SuiteResult(rows, details)


def _speech_rows(
  measures: SpeechMeasures,
  codec: Codec,
  made: Sequence[np.ndarray],
  real: Sequence[np.ndarray],
  recorded: Sequence[np.ndarray],
) -> list[Row]:
  """How clear the words are, and the quality, of continuations beside the real ones.

  Nobody knows what a continuation should say. Clear words survive another pass through the codec;
  what a recognizer guesses in speech without words does not.
  """
  rate = codec.spec.sample_rate
  described = {
    label: [measures.describe(part, rate) for part in parts]
    for label, parts in (("continuation", made), ("real", real), ("recording", recorded))
  }
  figures = opinion_figures(described)
  recognizer = measures.recognizer
  if recognizer is not None:
    for label, parts in (("continuation", made), ("real", real)):
      read = [one.words for one in described[label]]
      again = [
        Description(recognizer.transcribe(through_codec(codec, part), rate)) for part in parts
      ]
      name = "word error rate after another pass through the codec"
      figures += word_figures(name, recognizer, {label: again}, read)
      words = [len(normalised_words(recognizer.normalise(text or ""))) for text in read]
      paces = [count * rate / len(part) for count, part in zip(words, parts, strict=True)]
      figures.append(ClipFigure(f"words a second, {label}", np.array(paces), note=recognizer.name))
  return [figure.row("continuation") for figure in figures] + measures.missing_rows("continuation")


def codec_speaker_model(codec: Codec, clips: Sequence[EvalClip]) -> SpeakerModel:
  """A speaker model fitted on clips of known speakers as the codec gives them back."""
  known = [clip for clip in clips if clip.speaker is not None]
  decoded = [through_codec(codec, clip.waveform) for clip in known]
  return fit_speaker_model(decoded, [str(c.speaker) for c in known], codec.spec.sample_rate)


def continuer(bundle: Any, duration: float, sample_rate: int) -> Continue:
  """Continues prompts by a bundle, whatever its own rate.

  Args:
    duration: of what is new, seconds.
    sample_rate: Hz, of the prompts and of what is made of them.
  """
  new_samples = round(duration * bundle.sample_rate)

  def continue_prompt(prompt: Float[np.ndarray, " samples"], seed: int) -> Continuation:
    started = time.monotonic()
    result = bundle.continue_audio(
      prompt, sample_rate, duration=duration, seed=seed, prompt_seconds=None
    )
    seconds = time.monotonic() - started
    made = np.asarray(result.waveform).reshape(-1)[-new_samples:]
    return Continuation(audio.resample(made, bundle.sample_rate, sample_rate), seconds)

  return continue_prompt


def save_sounds(
  folder: str,
  name: str,
  sounds: Sequence[Float[np.ndarray, " samples"]],
  captions: Sequence[str],
  sample_rate: int,
) -> dict[str, str]:
  """Writes the first ten as `name`_0.flac and so on, to be heard on the page of results.

  Args:
    captions: one for each sound, none twice.
  Returns:
    File names by caption, for the detail `sounds` of a suite.
  """
  files = {}
  for index, caption in enumerate(captions[:_HEARD]):
    files[caption] = f"{name}_{index}.flac"
    audio.write_audio(os.path.join(folder, files[caption]), sounds[index], sample_rate)
  return files


def _drawer(bundle: Any, duration: float, count: int) -> Draw:
  def draw(prompt: Float[np.ndarray, " samples"], seed: int) -> Float[np.ndarray, "draws samples"]:
    result = bundle.continue_audio(
      prompt,
      bundle.sample_rate,
      duration=duration,
      seed=seed,
      prompt_seconds=None,
      prompt_audio="none",
      num_samples=count,
    )
    return np.asarray(result.waveform)

  return draw


def _distance_rows(
  made: Sequence[np.ndarray],
  real: Sequence[np.ndarray],
  recorded: Sequence[np.ndarray],
  rate: int,
  seed: int,
) -> list[Row]:
  """Fréchet audio distance from the real continuations, and what 0 and a codec look like."""
  pairs = [(m[: len(r)], r) for m, r in zip(made, real, strict=True)]
  of_made, of_real = ([frechet.embed(p, rate) for p in side] for side in zip(*pairs, strict=True))
  of_recorded = [frechet.embed(part, rate) for part in recorded]
  windows = sum(map(len, of_real))
  size = f"{frechet.EMBEDDING}, {frechet.DIM} dimensions, extrapolated"
  note = f"{size}; {windows} windows of 1 s"
  estimates = {
    "continuation": (frechet.frechet_estimate(of_real, of_made, seed), note),
    "real, the other half of the prompts": (
      frechet.frechet_between_halves(of_real, seed),
      f"{size}; {windows // 2} windows; what 0 looks like, with 95 % of random halves",
    ),
    "codec against recordings": (frechet.frechet_estimate(of_recorded, of_real, seed), note),
  }
  return [
    Row(
      "continuation",
      f"FAD (log-mel statistics), {name}",
      estimate,
      Better.LOWER,
      note=note if np.isfinite(estimate.value) else f"too little: {note}",
    )
    for name, (estimate, note) in estimates.items()
  ]


def _diversity_rows(
  tokenize: Tokenize,
  drawn: Sequence[Float[np.ndarray, "draws samples"]],
  real: Sequence[np.ndarray],
  rate: int,
) -> list[Row]:
  """How far samples of one prompt are from each other, and from those of other prompts."""

  def sound_of(waveform: np.ndarray) -> Float[np.ndarray, "windows dim"]:
    return frechet.embed(waveform, rate)

  measures = {
    "semantic token distance": (tokenize, token_metrics.token_distance),
    "sound distance (log-mel statistics)": (sound_of, frechet.mean_distance),
  }
  rows = []
  for name, (describe, distance) in measures.items():
    samples = [[describe(waveform) for waveform in group] for group in drawn]
    truth = [[describe(waveform)] for waveform in real]
    found = diversity.diversity(samples, distance)
    note = f"{len(drawn[0])} samples; 0: all alike"
    if found.between.value > 0:
      note += f"; {found.within.value / found.between.value:.2f} of that between prompts"
    rows += [
      Row("continuation", f"{name}, samples of one prompt", found.within, note=note),
      Row("continuation", f"{name}, samples of different prompts", found.between),
      Row(
        "continuation",
        f"{name}, real continuations of different prompts",
        diversity.diversity(truth, distance).between,
      ),
    ]
  return rows


def _speaker_rows(
  model: SpeakerEncoder,
  label: str,
  clips: Sequence[EvalClip],
  through: Sequence[np.ndarray],
  made: Sequence[Continuation],
  rate: int,
  cut: int,
  seed: int,
) -> tuple[list[Row], dict[str, Any]]:
  """Who is heard in the continuation, among the prompt's speaker and nine others.

  A speaker is enrolled with the last piece of real speech of a clip; the piece between prompt and
  that shows what the embedding can tell at best. `through` are the clips through the codec, and
  `label` says in the figures which embedding it is.
  """
  enrolled, ceiling, generated, prompts, names = [], [], [], [], []
  for clip, decoded, continuation in zip(clips, through, made, strict=True):
    rest = len(clip.waveform) - cut
    if clip.speaker is None or rest < 2 * _LEAST_VOICE_SECONDS * rate:
      continue
    middle = cut + rest // 2
    enrolled.append(model.embed(decoded[middle:], rate))
    ceiling.append(model.embed(decoded[cut:middle], rate))
    prompts.append(model.embed(decoded[:cut], rate))
    generated.append(model.embed(continuation.waveform, rate))
    names.append(clip.speaker)
  if len(set(names)) < 2:
    least = cut / rate + 2 * _LEAST_VOICE_SECONDS
    raise DataError(f"{len(set(names))} speakers have a clip of {least:g} s; at least 2 are needed")
  table = np.stack(enrolled)
  rng = np.random.default_rng(seed)
  count = min(NUM_CANDIDATES, len(set(names)))

  def accuracy(embeddings: list[np.ndarray]) -> list[float]:
    shares = []
    for index, embedding in enumerate(embeddings):
      others = [s for s in sorted(set(names)) if s != names[index]]
      hits = 0
      for _ in range(_DRAWS):
        chosen = rng.choice(others, count - 1, replace=False)
        at = [index, *(int(rng.choice(np.flatnonzero(np.array(names) == s))) for s in chosen)]
        hits += identify(embedding, table[at]) == 0
      shares.append(hits / _DRAWS)
    return shares

  cosines = [float(g @ p) for g, p in zip(generated, prompts, strict=True)]
  real_cosines = [float(c @ p) for c, p in zip(ceiling, prompts, strict=True)]
  figure = f"prompt's speaker found among {count}{label}"
  cosine = f"voice cosine with the prompt{label}"
  floor, aim = (0.30, 0.90) if count == NUM_CANDIDATES else (None, None)
  rows = [
    Row(
      "continuation",
      f"{figure}, continuation",
      mean_estimate(accuracy(generated)),
      floor=floor,
      aim=aim,
    ),
    Row("continuation", f"{figure}, real continuation", mean_estimate(accuracy(ceiling))),
    Row("continuation", f"{figure}, prompt itself", mean_estimate(accuracy(prompts))),
    Row("continuation", f"{cosine}, continuation", mean_estimate(cosines)),
    Row("continuation", f"{cosine}, real", mean_estimate(real_cosines)),
  ]
  details = {"speakers": sorted(set(names)), "clips": len(names), "chance": 1 / count}
  return rows, details


def _sound_rows(
  prompts: Sequence[np.ndarray],
  made: Sequence[np.ndarray],
  real: Sequence[np.ndarray],
  rate: int,
  domain: Domain,
) -> list[Row]:
  lowest, highest = _PITCH_RANGE[domain.value]
  rows = []
  for label, parts in (("continuation", made), ("real", real)):
    heard, columns = [], []
    for prompt, part in zip(prompts, parts, strict=True):
      loud = sound.loud_level(prompt, rate)
      before, after = (
        sound.sound_statistics(
          piece, rate, loud_db=loud, lowest_pitch=lowest, highest_pitch=highest
        )
        for piece in (prompt, part)
      )
      heard.append(after)
      pitch = sound.pitch_difference_semitones(after, before)
      level = sound.level_difference_db(after, before)
      columns.append((abs(level), abs(pitch)))
    level, pitch = np.array(columns).T
    rows += [
      Row("continuation", f"level difference from the prompt, dB, {label}", mean_estimate(level)),
      Row("continuation", f"pitch difference, semitones, {label}", mean_estimate(pitch)),
    ]
    for name in _STATISTICS:
      values = [getattr(statistics, name) for statistics in heard]
      rows.append(Row("continuation", f"{name}, {label}", mean_estimate(values)))
    silent = [statistics.active_share < _SILENT_SHARE for statistics in heard]
    figure = f"share with sound in less than 5 % of the time, {label}"
    rows.append(Row("continuation", figure, mean_estimate(silent), Better.LOWER))
  return rows


def _token_rows(
  codec: Codec, tokenize: Tokenize, parts: Sequence[np.ndarray], label: str
) -> list[Row]:
  """Loops in the tokens that the sound has when it is heard again."""
  semantic = [tokenize(part) for part in parts]
  codes = [np.asarray(codec.encode_long(part))[:, 0] for part in parts]
  looped = {
    "semantic tokens in loops": [
      token_metrics.repetition_rate(collapse_repeats(tokens)) for tokens in semantic
    ],
    "longest run of a semantic token": [float(token_metrics.longest_run(t)) for t in semantic],
    "codes of the first level in loops": [token_metrics.repetition_rate(c) for c in codes],
  }
  return [
    Row("continuation", f"{figure}, {label}", mean_estimate(values), Better.LOWER)
    for figure, values in looped.items()
  ]
