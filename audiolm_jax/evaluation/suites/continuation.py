"""Compares continuations of prompts with the real continuations.

The metrics are voice, level, pitch, pauses, loops, copies, Fréchet distance, diversity, words and
quality.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from audiolm_jax.bundles import Bundle
from audiolm_jax.codec.interface import Codec
from audiolm_jax.core.configs import JsonDict
from audiolm_jax.core.errors import DataError
from audiolm_jax.core.streams import CODES, SEMANTIC
from audiolm_jax.data.token_shards import TokenClip
from audiolm_jax.data.token_store import TokenStore
from audiolm_jax.evaluation import continuation as sound
from audiolm_jax.evaluation import (
  diversity,
  frechet,
  generation,
  intelligibility,
  plots,
  speech,
)
from audiolm_jax.evaluation import tokens as token_metrics
from audiolm_jax.evaluation.clips import EvalClip, load_pieces, pieces_to_continue
from audiolm_jax.evaluation.codec import through_codec
from audiolm_jax.evaluation.copying import Copies
from audiolm_jax.evaluation.metric import Better, Metric
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.recognition import normalised_words
from audiolm_jax.evaluation.report import Row, SuiteResult, row_of
from audiolm_jax.evaluation.speaker import (
  SpeakerEncoder,
  SpeakerModel,
  fit_speaker_model,
  found_among_candidates,
)
from audiolm_jax.evaluation.tokens import Tokenize
from audiolm_jax.lm.tokens import collapse_repeats

LEVEL = Metric("level_difference_db", "level difference from the prompt", unit="dB")
PITCH = Metric("pitch_difference_semitones", "pitch difference", unit="semitones")
STATISTICS = (  # the keys are names of attributes of `SoundStatistics`
  Metric("active_share", "share of time with sound"),
  Metric("longest_pause_seconds", "longest pause", unit="s"),
  Metric("voiced_share", "share of voiced frames"),
  Metric("pitch_range_semitones", "pitch range", unit="semitones"),
  Metric("centroid_hz", "spectral centroid", unit="Hz"),
  Metric("clicks_per_second", "clicks per second"),
  Metric("clipped_share", "share of clipped samples"),
)
SILENT = Metric("silent_share", "share with sound in less than 5 % of the time", Better.LOWER)
SEMANTIC_LOOPS = Metric("semantic_loops", "semantic tokens in loops", Better.LOWER)
SEMANTIC_RUN = Metric("semantic_run", "longest run of a semantic token", Better.LOWER)
CODE_LOOPS = Metric("code_loops", "codes of the first level in loops", Better.LOWER)
SEMANTIC_COPIES = Metric("semantic_copies", "seconds of semantic tokens copied", Better.LOWER)
CODE_COPIES = Metric("code_copies", "seconds of codes of the first level copied", Better.LOWER)
FAD = Metric("fad_log_mel", "FAD (log-mel statistics)", Better.LOWER)
TOKEN_DISTANCE = Metric("token_diversity", "semantic token distance")
SOUND_DISTANCE = Metric("sound_diversity", "sound distance (log-mel statistics)")
WORDS_LOST = Metric(
  "word_loss_rate", "word error rate after another pass through the codec", Better.LOWER
)
PACE = Metric("words_per_second", "words a second")
SPEED = Metric("real_time_factor", "audio seconds made per second")
VOICES = {  # for each encoder: share of found speakers, cosine with the prompt
  "speaker": (
    Metric("prompt_speaker_found", "prompt's speaker found"),
    Metric("prompt_voice_cosine", "voice cosine with the prompt"),
  ),
  "speaker by GE2E": (
    Metric("ge2e_prompt_speaker_found", "prompt's speaker found by GE2E"),
    Metric("ge2e_prompt_voice_cosine", "voice cosine with the prompt by GE2E"),
  ),
}

SHUFFLED = "shuffled units of the real one"
NUM_CANDIDATES = 10
_LEAST_VOICE_SECONDS = 2.0  # minimum length of each half of the real speech after the prompt
_DIVERSE_PROMPTS = 8  # number of prompts with several samples each
_SILENT_SHARE = 0.05  # a silent clip has a lower share of active frames
_PITCH_RANGE = {Domain.SPEECH: (65.0, 450.0), Domain.MUSIC: (50.0, 1200.0)}  # Hz


def run(bundle: Bundle, options: Options) -> SuiteResult:
  """Continues held-out prompts; the report page contains the first ten continuations."""
  model = None
  if options.domain is Domain.SPEECH:
    train = load_pieces(
      options.source_of("train"),
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
    generation.continuer(bundle, options.duration, bundle.sample_rate),
    pieces_to_continue(options, bundle.sample_rate, 2 * _LEAST_VOICE_SECONDS),
    options.domain,
    prompt_seconds=options.prompt_seconds,
    speaker_model=model,
    measures=(measures := speech.find_measures(options)),
    checks=(
      intelligibility.find_checks(options) if measures.recognizer else intelligibility.NO_CHECKS
    ),
    shuffle=generation.shuffler(bundle),
    draw=generation.drawer(bundle, options.duration, options.samples_per_prompt),
    training=_training_tokens(bundle, options),
    seed=options.seed,
  )
  made, names = result.details.pop("continuations"), result.details["clips"]
  captions = [f"{name}: prompt and continuation" for name in names]
  picture = "continuations.png"
  plots.save_spectrogram_grid(
    os.path.join(options.output_dir, picture),
    made[: generation.MAX_SOUNDS],
    bundle.sample_rate,
    titles=names[: generation.MAX_SOUNDS],
    prompt_seconds=options.prompt_seconds,
  )
  sounds = generation.save_sounds(
    options.output_dir, "continuation", made, captions, bundle.sample_rate
  )
  pictures = {"Prompts (left of the line) and continuations": picture}
  return dataclasses.replace(result, pictures=pictures, sounds=sounds)


def continuation_suite(
  codec: Codec,
  tokenize: Tokenize,
  continue_prompt: generation.ContinueFn,
  clips: Sequence[EvalClip],
  domain: Domain,
  *,
  prompt_seconds: float = 3.0,
  speaker_model: SpeakerModel | None = None,
  measures: speech.SpeechMeasures = speech.NO_MEASURES,
  checks: intelligibility.WordChecks = intelligibility.NO_CHECKS,
  shuffle: generation.ShuffleFn | None = None,
  draw: generation.DrawFn | None = None,
  training: Sequence[TokenClip] = (),
  seed: int = 0,
) -> SuiteResult:
  """Continues the beginning of every clip, and compares the result with the real continuation.

  The codec encodes and decodes the real continuation too, so that its artefacts do not distinguish
  the sampled from the real continuation.

  Args:
    codec: the bundle's codec.
    tokenize: function that returns the semantic tokens of a waveform, for loops and copies.
    continue_prompt: function that continues a prompt.
    clips: clips to continue; clips that are at most 1 s longer than the prompt are ignored.
    domain: kind of audio, which determines the pitch range to search.
    prompt_seconds: length of a prompt in seconds.
    speaker_model: speaker encoder, for the rows of the voice; None to omit these rows.
    measures: networks, for the rows of words, quality, and voice by GE2E.
    checks: dictionary and second recognizer, for the rows that show whether the speech has words.
      These rows also need a recognizer in `measures`.
    shuffle: function that samples audio from shuffled semantic tokens, the baseline for the rows of
      words; None for no baseline.
    draw: function that samples several continuations of a prompt, for the rows of diversity; None
      to omit these rows.
    training: tokens that the stages were trained on, for the rows of copies.
    seed: seed of sampling.

  Raises:
    DataError: no clip is long enough, or a speaker encoder is given and fewer than two speakers
      have a clip with 4 s after the prompt.
  """
  rate = codec.spec.sample_rate
  cut = round(prompt_seconds * rate)
  clips = [clip for clip in clips if len(clip.waveform) > cut + rate]
  if not clips:
    raise DataError(f"no clip is longer than {prompt_seconds + 1:g} s")
  through = [through_codec(codec, clip.waveform) for clip in clips]
  results = [continue_prompt(clip.waveform[:cut], seed + index) for index, clip in enumerate(clips)]
  made = [result.waveform for result in results]
  prompts = [decoded[:cut] for decoded in through]
  real = [d[cut : cut + len(m)] for d, m in zip(through, made, strict=True)]
  recorded = [c.waveform[cut : cut + len(m)] for c, m in zip(clips, made, strict=True)]
  rows, details = [], {}
  for (name, metrics), encoder in zip(
    VOICES.items(), (speaker_model, measures.speaker), strict=True
  ):
    if encoder is not None:
      voices, details[name] = _voice_rows(encoder, metrics, clips, through, made, rate, cut, seed)
      rows += voices
  rows += _sound_rows(prompts, made, real, rate, domain)
  rows += _token_rows(codec, tokenize, made, "continuation")
  rows += _token_rows(codec, tokenize, real, "real")
  rows += _copy_rows(codec, tokenize, clips, results, training, cut)
  rows += _distance_rows(made, real, recorded, rate, seed)
  if draw is not None:
    chosen = range(min(_DIVERSE_PROMPTS, len(clips)))
    drawn = [draw(clips[i].waveform[:cut], seed + i) for i in chosen]
    rows += _diversity_rows(tokenize, drawn, [real[i] for i in chosen], rate)
  parts = {"continuation": made, "real": real}
  described = measures.describe_all({**parts, "recording": recorded}, rate)
  rows += _speech_rows(measures, codec, parts, described)
  if measures.recognizer is not None:
    if shuffle is not None:
      parts[SHUFFLED] = [
        shuffle(clip.waveform[:cut], rest, seed + index)
        for index, (clip, rest) in enumerate(zip(clips, recorded, strict=True))
      ]
      words_only = speech.SpeechMeasures(recognizer=measures.recognizer)
      described |= words_only.describe_all({SHUFFLED: parts[SHUFFLED]}, rate)
    rows += intelligibility.check_rows(checks, measures.recognizer, parts, described, rate)
  rows.append(_speed_row(results, rate))
  details |= {
    "clips": [clip.id for clip in clips],
    "prompt_seconds": prompt_seconds,
    "continuations": [np.concatenate(both) for both in zip(prompts, made, strict=True)],
  }
  return SuiteResult(rows, details)


def codec_speaker_model(codec: Codec, clips: Sequence[EvalClip]) -> SpeakerModel:
  """Fits a speaker model to the codec's output for the clips of known speakers.

  Raises:
    DataError: there are fewer than two speakers, or too few pieces of 3 s.
  """
  known = [clip for clip in clips if clip.speaker is not None]
  decoded = [through_codec(codec, clip.waveform) for clip in known]
  return fit_speaker_model(decoded, [str(c.speaker) for c in known], codec.spec.sample_rate)


def _speed_row(results: Sequence[generation.TimedContinuation], rate: int) -> Row:
  """Returns the speed of sampling.

  The first two continuations include compiling and are ignored if there are further continuations.
  """
  speeds = [len(r.waveform) / rate / r.seconds_taken for r in results[2:] or results]
  return row_of(SPEED, speeds, floor=1.0, aim=3.0)


def _speech_rows(
  measures: speech.SpeechMeasures,
  codec: Codec,
  parts: Mapping[str, Sequence[np.ndarray]],
  described: Mapping[str, Sequence[speech.Description]],
) -> list[Row]:
  """Returns rows of speech quality, and of the clarity and the pace of the words.

  A continuation has no reference text, so its words are compared with the words recognized
  after another pass through the codec. Clear words do not change. Words that a recognizer guesses
  in speech without words change.
  """
  rate = codec.spec.sample_rate
  rows = speech.opinion_rows(described)
  recognizer = measures.recognizer
  if recognizer is not None:
    for kind, of_kind in parts.items():
      texts = [one.words for one in described[kind]]
      again = [recognizer.transcribe(through_codec(codec, part), rate) for part in of_kind]
      described_again = {kind: [speech.Description(text) for text in again]}
      rows += speech.word_rows(WORDS_LOST, recognizer, described_again, texts)
      words = [len(normalised_words(recognizer.normalise(text or ""))) for text in texts]
      paces = [count * rate / len(part) for count, part in zip(words, of_kind, strict=True)]
      rows.append(row_of(PACE, paces, kind, note=recognizer.name))
  return rows + measures.missing_rows()


def _training_tokens(bundle: Bundle, options: Options) -> Sequence[TokenClip]:
  if not options.token_store:
    return ()
  return TokenStore(options.token_store, bundle.token_hash).clips("train")


def _copy_rows(
  codec: Codec,
  tokenize: Tokenize,
  clips: Sequence[EvalClip],
  results: Sequence[generation.TimedContinuation],
  training: Sequence[TokenClip],
  cut: int,
) -> list[Row]:
  """Returns the share of one-second token stretches found in the prompt or the training clips.

  Repeats of semantic tokens are collapsed before the comparison. A stretch of semantic tokens has
  as many tokens as a second of the recordings has on average.
  """
  spec = codec.spec
  new: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"continuation": [], "real": []}
  prompts: list[tuple[np.ndarray, np.ndarray]] = []
  seconds = 0.0
  for clip, result in zip(clips, results, strict=True):
    if result.tokens is None:
      continue
    recording = clip.waveform[: cut + len(result.waveform)]
    semantic = collapse_repeats(np.asarray(tokenize(clip.waveform[:cut])))
    codes = np.asarray(codec.encode_long(recording))[:, 0]
    steps, frames = len(semantic), cut // spec.hop_length
    prompts.append((semantic, codes[:frames]))
    for kind, (of_kind, levels) in {
      "continuation": (result.tokens.semantic, np.asarray(result.tokens.codes)[:, 0]),
      "real": (tokenize(recording), codes),
    }.items():
      new[kind].append((collapse_repeats(np.asarray(of_kind))[steps:], levels[frames:]))
    seconds += (len(recording) - cut) / spec.sample_rate
  if not prompts:
    return []
  second = round(sum(len(semantic) for semantic, _ in new["real"]) / seconds)
  lengths = max(1, second), round(spec.sample_rate / spec.hop_length)
  learned = [
    Copies(lengths[0], [collapse_repeats(clip.streams[SEMANTIC]) for clip in training]),
    Copies(lengths[1], [clip.streams[CODES][:, 0] for clip in training]),
  ]
  where = f"in the prompt or in {len(training)} training clips" if training else "in the prompt"
  rows: list[Row] = []
  for index, metric in enumerate((SEMANTIC_COPIES, CODE_COPIES)):
    of_prompts = [Copies(lengths[index], [prompt[index]]) for prompt in prompts]
    note = f"{where}; stretches of {lengths[index]} tokens"
    for kind, parts in new.items():
      counts = [
        learned[index].count(part[index], also=of_prompt)
        for part, of_prompt in zip(parts, of_prompts, strict=True)
      ]
      rows.append(row_of(metric, np.array(counts), kind, note=note))
  return rows


def _distance_rows(
  made: Sequence[np.ndarray],
  real: Sequence[np.ndarray],
  recorded: Sequence[np.ndarray],
  rate: int,
  seed: int,
) -> list[Row]:
  """Returns Fréchet distances of sampled to real continuations, and two reference distances."""
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
      f"{size}; {windows // 2} windows; the distance of equal distributions, with 95 % of random "
      "halves",
    ),
    "codec against recordings": (frechet.frechet_estimate(of_recorded, of_real, seed), note),
  }
  return [
    Row(FAD, estimate, of, note=note if np.isfinite(estimate.value) else f"too few clips: {note}")
    for of, (estimate, note) in estimates.items()
  ]


def _diversity_rows(
  tokenize: Tokenize,
  drawn: Sequence[Float[np.ndarray, "draws _"]],
  real: Sequence[np.ndarray],
  rate: int,
) -> list[Row]:
  """Returns distances between samples of one prompt, and between samples of different prompts."""

  def embed(waveform: np.ndarray) -> Float[np.ndarray, "windows dim"]:
    return frechet.embed(waveform, rate)

  rows = []
  for metric, describe, distance in (
    (TOKEN_DISTANCE, tokenize, token_metrics.token_distance),
    (SOUND_DISTANCE, embed, frechet.mean_distance),
  ):
    samples = [[describe(waveform) for waveform in group] for group in drawn]
    truth = [[describe(waveform)] for waveform in real]
    found = diversity.diversity(samples, distance)
    note = f"{len(drawn[0])} samples; 0: all are the same"
    if found.between.value > 0:
      note += f"; {found.within.value / found.between.value:.2f} of that between prompts"
    apart = diversity.diversity(truth, distance).between
    rows += [
      Row(metric, found.within, "samples of one prompt", note=note),
      Row(metric, found.between, "samples of different prompts"),
      Row(metric, apart, "real continuations of different prompts"),
    ]
  return rows


def _voice_rows(
  encoder: SpeakerEncoder,
  metrics: tuple[Metric, Metric],
  clips: Sequence[EvalClip],
  through: Sequence[np.ndarray],
  made: Sequence[np.ndarray],
  rate: int,
  cut: int,
  seed: int,
) -> tuple[list[Row], JsonDict]:
  """Identifies the speaker of each continuation among the true and up to nine other speakers.

  The real speech after the prompt is cut into two halves. The second half enrols the speaker. The
  first half shows how well the encoder identifies real speech.

  Args:
    encoder: the speaker encoder.
    metrics: metric for the share of correctly identified speakers, and metric for the cosine with
      the prompt.
    clips: the clips; clips without a speaker or with less than 4 s after the prompt are ignored.
    through: the clips, encoded and decoded by the codec.
    made: the continuations.
    rate: sample rate in Hz.
    cut: length of a prompt in samples.
    seed: seed for the choice of candidates.

  Raises:
    DataError: fewer than two speakers have a clip that is long enough.
  """
  enrolled, ceiling, generated, prompts, names = [], [], [], [], []
  for clip, decoded, continuation in zip(clips, through, made, strict=True):
    rest = len(clip.waveform) - cut
    if clip.speaker is None or rest < 2 * _LEAST_VOICE_SECONDS * rate:
      continue
    middle = cut + rest // 2
    enrolled.append(encoder.embed(decoded[middle:], rate))
    ceiling.append(encoder.embed(decoded[cut:middle], rate))
    prompts.append(encoder.embed(decoded[:cut], rate))
    generated.append(encoder.embed(continuation, rate))
    names.append(clip.speaker)
  if len(set(names)) < 2:
    least = cut / rate + 2 * _LEAST_VOICE_SECONDS
    raise DataError(f"{len(set(names))} speakers have a clip of {least:g} s; at least 2 are needed")
  rng = np.random.default_rng(seed)
  count = min(NUM_CANDIDATES, len(set(names)))
  floor, aim = (0.30, 0.90) if count == NUM_CANDIDATES else (None, None)
  found, cosine = metrics
  kinds = {"continuation": generated, "real continuation": ceiling, "prompt itself": prompts}
  shares = {
    kind: found_among_candidates(embeddings, np.stack(enrolled), names, count, rng)
    for kind, embeddings in kinds.items()
  }
  rows = [row_of(found, of_kind, f"among {count}, {kind}") for kind, of_kind in shares.items()]
  rows[0] = dataclasses.replace(rows[0], floor=floor, aim=aim)
  for kind, embeddings in (("continuation", generated), ("real", ceiling)):
    cosines = [float(e @ p) for e, p in zip(embeddings, prompts, strict=True)]
    rows.append(row_of(cosine, cosines, kind))
  details = {"speakers": sorted(set(names)), "clips": len(names), "chance": 1 / count}
  return rows, details


def _sound_rows(
  prompts: Sequence[np.ndarray],
  made: Sequence[np.ndarray],
  real: Sequence[np.ndarray],
  rate: int,
  domain: Domain,
) -> list[Row]:
  """Returns statistics of sampled and real continuations, and their differences from the prompt."""
  lowest, highest = _PITCH_RANGE[domain]
  rows = []

  def statistics_of(waveform: np.ndarray, loud_db: float) -> sound.SoundStatistics:
    return sound.sound_statistics(
      waveform, rate, loud_db=loud_db, lowest_pitch=lowest, highest_pitch=highest
    )

  loud = [sound.loud_level(prompt, rate) for prompt in prompts]
  before = [statistics_of(prompt, level) for prompt, level in zip(prompts, loud, strict=True)]
  for kind, parts in (("continuation", made), ("real", real)):
    after = [statistics_of(part, level) for part, level in zip(parts, loud, strict=True)]
    both = list(zip(after, before, strict=True))
    rows.append(row_of(LEVEL, [abs(sound.level_difference_db(*pair)) for pair in both], kind))
    rows.append(row_of(PITCH, [abs(sound.pitch_difference_semitones(*p)) for p in both], kind))
    rows += [row_of(m, [getattr(one, m.key) for one in after], kind) for m in STATISTICS]
    silent = [float(one.active_share < _SILENT_SHARE) for one in after]
    rows.append(row_of(SILENT, silent, kind))
  return rows


def _token_rows(
  codec: Codec, tokenize: Tokenize, parts: Sequence[np.ndarray], kind: str
) -> list[Row]:
  """Encodes sounds, and returns rows of the loops and repeats in their tokens."""
  semantic = [tokenize(part) for part in parts]
  codes = [np.asarray(codec.encode_long(part))[:, 0] for part in parts]
  looped = {
    SEMANTIC_LOOPS: [token_metrics.repetition_rate(collapse_repeats(t)) for t in semantic],
    SEMANTIC_RUN: [float(token_metrics.longest_run(t)) for t in semantic],
    CODE_LOOPS: [token_metrics.repetition_rate(c) for c in codes],
  }
  return [row_of(metric, values, kind) for metric, values in looped.items()]
