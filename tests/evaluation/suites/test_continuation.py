import dataclasses

import numpy as np
import pytest

from audiolm_jax.codec.interface import CodecSpec
from audiolm_jax.data.token_shards import TokenClip
from audiolm_jax.evaluation.clips import EvalClip
from audiolm_jax.evaluation.generation import TimedContinuation
from audiolm_jax.evaluation.intelligibility import DISAGREEMENT, WordChecks
from audiolm_jax.evaluation.opinion import Opinion
from audiolm_jax.evaluation.options import Domain
from audiolm_jax.evaluation.speech import BY_WHISPER, SpeechMeasures
from audiolm_jax.evaluation.suites import continuation
from audiolm_jax.io.encoded import Encoded
from tests.partial_codec import PartialCodec

RATE = 16_000
PEOPLE = [(95 + 22 * i, 500 + 230 * (3 * i % 7)) for i in range(7)]


def by_figure(result):
  return {row.figure: row for row in result.rows}


def test_continuation_suite_distinguishes_a_faithful_continuer_from_one_that_changes_the_voice(
  pulse_codec, voice
):
  clips = [
    EvalClip(str(i), voice(*v, seed=20 + i, seconds=11), speaker=str(i))
    for i, v in enumerate(PEOPLE)
  ]
  train = [
    EvalClip(f"t{i}{j}", voice(*v, seed=50 + 10 * i + j), speaker=f"t{i}")
    for i, v in enumerate([*PEOPLE, (150, 2000), (230, 600)])
    for j in range(2)
  ]
  model = continuation.codec_speaker_model(pulse_codec, train)

  def loops(waveform):
    return np.tile([3, 5, 5], len(waveform) // 2000)

  def continuer(shift):
    def continue_prompt(prompt, seed):
      who = next(
        i for i, c in enumerate(clips) if np.array_equal(c.waveform[: len(prompt)], prompt)
      )
      made = voice(*PEOPLE[(who + shift) % len(PEOPLE)], seed=900 + seed, seconds=4)
      return TimedContinuation(made, 0.5)

    return continue_prompt

  results = [
    by_figure(
      continuation.continuation_suite(
        pulse_codec, loops, continuer(shift), clips, Domain.SPEECH, speaker_model=model
      )
    )
    for shift in (0, 3)
  ]
  same, other = (r["prompt's speaker found, among 7, continuation"].estimate.value for r in results)
  assert same > 0.8 and other < 0.2
  rows = results[0]
  assert rows["prompt's speaker found, among 7, real continuation"].estimate.value > 0.9
  assert rows["semantic tokens in loops, continuation"].estimate.value == 1
  assert rows["longest run of a semantic token, real"].estimate.value == 2
  assert rows["audio seconds made per second"].estimate.value == pytest.approx(8)
  assert rows["audio seconds made per second"].verdict == "aim"
  shifted = results[1]["pitch difference, semitones, continuation"].estimate.value
  assert rows["pitch difference, semitones, continuation"].estimate.value < 1 < shifted


def test_continuation_suite_needs_a_clip_longer_than_the_prompt(pulse_codec):
  clips = [EvalClip("short", np.ones(RATE, np.float32))]
  with pytest.raises(ValueError, match="no clip is longer"):
    continuation.continuation_suite(pulse_codec, len, lambda *_: None, clips, Domain.MUSIC)  # pyright: ignore[reportArgumentType]: they are not called


@pytest.fixture(scope="module")
def many_clips(voice):
  """Sixteen voices, four seconds each."""
  return [
    EvalClip(str(i), voice(100 + 9 * i, 500 + 110 * (5 * i % 16), seed=i, seconds=4))
    for i in range(16)
  ]


def rest_of(clips, prompt):
  """Returns the real continuation."""
  found = next(c for c in clips if np.array_equal(c.waveform[: len(prompt)], prompt))
  return found.waveform[len(prompt) :]


def syllables(waveform):
  """Loudness of 100 ms frames as tokens."""
  frames = waveform[: len(waveform) // 1600 * 1600].reshape(-1, 1600)
  return np.digitize(np.sqrt((frames**2).mean(-1)), np.geomspace(0.001, 0.1, 12))


def test_noise_is_farther_from_real_continuations_than_the_codec_and_other_voices(
  pulse_codec, many_clips
):
  def noise(prompt, seed):
    made = np.random.default_rng(seed).standard_normal(3 * RATE)
    return TimedContinuation((0.1 * made).astype(np.float32), 1.0)

  rows = by_figure(
    continuation.continuation_suite(
      pulse_codec, syllables, noise, many_clips, Domain.MUSIC, prompt_seconds=1.0
    )
  )
  made, halves, codec = (
    rows[f"FAD (log-mel statistics), {name}"]
    for name in (
      "continuation",
      "real, the other half of the prompts",
      "codec against recordings",
    )
  )
  assert (made.estimate.n, halves.estimate.n, codec.estimate.n) == (16, 8, 16)
  assert codec.estimate.high < made.estimate.low
  assert halves.estimate.low < 1 < halves.estimate.high < made.estimate.low
  assert "80 windows of 1 s" in made.note and "statistics v1" in made.note


def test_a_sampler_that_always_makes_the_same_has_diversity_0(pulse_codec, voice, many_clips):
  clips = many_clips[:4]

  def truth(prompt, seed):
    return TimedContinuation(rest_of(clips, prompt), 1.0)

  def alike(prompt, seed):
    return np.stack([rest_of(clips, prompt)] * 3)

  def different(prompt, seed):
    return np.stack([voice(100 + 40 * i, 500 + 600 * i, seed + 50 * i, 3) for i in range(3)])

  one, many = (
    by_figure(
      continuation.continuation_suite(
        pulse_codec, syllables, truth, clips, Domain.MUSIC, prompt_seconds=1.0, draw=draw
      )
    )
    for draw in (alike, different)
  )
  for measure in ("semantic token distance", "sound distance (log-mel statistics)"):
    same = one[f"{measure}, samples of one prompt"]
    assert same.estimate.value == 0 and same.estimate.n == 4
    assert same.note.startswith("3 samples") and "0.00 of that" in same.note
    assert one[f"{measure}, samples of different prompts"].estimate.low > 0.1
    assert one[f"{measure}, real continuations of different prompts"].estimate.low > 0.1
    assert many[f"{measure}, samples of one prompt"].estimate.low > 0.1


def test_continuations_that_fall_silent_are_counted(pulse_codec, many_clips):
  def every_other(prompt, seed):
    made = rest_of(many_clips, prompt)
    return TimedContinuation(made if seed % 2 else np.zeros_like(made), 1.0)

  rows = by_figure(
    continuation.continuation_suite(
      pulse_codec, syllables, every_other, many_clips[:4], Domain.MUSIC, prompt_seconds=1.0
    )
  )
  figure = "share with sound in less than 5 % of the time"
  assert rows[f"{figure}, continuation"].estimate.value == 0.5
  assert rows[f"{figure}, real"].estimate.value == 0
  assert np.isnan(rows["FAD (log-mel statistics), continuation"].estimate.value)
  assert rows["FAD (log-mel statistics), continuation"].note.startswith("too few clips")


class Syllables:
  """Transcribes loud and quiet tenths of a second; all voices are the same."""

  name = "syllables"

  def transcribe(self, waveform, sample_rate):
    return " ".join("quiet" if level < 5 else "loud" for level in syllables(waveform))

  def normalise(self, text):
    return text

  def rate(self, waveform, sample_rate):
    return Opinion(*(3.0 if np.any(waveform) else 1.0,) * 3)

  def embed(self, waveform, sample_rate):
    return np.array([1.0, 0.0])


def test_words_and_quality_are_measured_for_continuations_and_real_ones(pulse_codec, many_clips):
  def silence(prompt, seed):
    return TimedContinuation(np.zeros(3 * RATE, np.float32), 1.0)

  measures = SpeechMeasures(Syllables(), Syllables(), Syllables(), {BY_WHISPER: "no model"})
  clips = [dataclasses.replace(c, speaker=c.id) for c in many_clips[:4]]
  clips = [dataclasses.replace(c, waveform=np.tile(c.waveform, 2)) for c in clips]
  result = continuation.continuation_suite(
    pulse_codec, syllables, silence, clips, Domain.SPEECH, prompt_seconds=1.0, measures=measures
  )
  rows = by_figure(result)
  again = "word error rate after another pass through the codec"
  assert rows[f"{again}, continuation"].estimate.value == 0
  assert rows[f"{again}, real"].estimate.value < 0.1
  assert rows["words a second, real"].estimate.value == pytest.approx(10)
  overall = {label: rows[f"DNSMOS overall, {label}"] for label in ("continuation", "real")}
  assert overall["continuation"].estimate.value == 1 and overall["real"].estimate.value == 3
  assert rows["voice cosine with the prompt by GE2E, continuation"].estimate.value == 1
  assert "prompt's speaker found by GE2E, among 4, real continuation" in rows
  assert rows["word error rate by Whisper"].note == "no model"
  assert result.details["speaker by GE2E"]["clips"] == 4


def test_words_are_compared_with_those_of_shuffled_units(pulse_codec, many_clips):
  def real(prompt, seed):
    return TimedContinuation(rest_of(clips, prompt), 1.0)

  def shuffle(prompt, rest, seed):
    given.append((len(prompt), len(rest), seed))
    return np.zeros_like(rest)

  given: list[tuple[int, int, int]] = []
  clips = [dataclasses.replace(c, waveform=np.tile(c.waveform, 2)) for c in many_clips[:2]]
  result = continuation.continuation_suite(
    pulse_codec, syllables, real, clips, Domain.SPEECH, prompt_seconds=1.0, seed=5,
    measures=SpeechMeasures(Syllables()), checks=WordChecks(second=Syllables()), shuffle=shuffle,
  )  # fmt: skip
  rows = by_figure(result)
  kinds = ("continuation", "real", continuation.SHUFFLED)
  assert all(f"{DISAGREEMENT.title}, {kind}" in rows for kind in kinds)
  assert rows[f"{DISAGREEMENT.title}, real"].estimate.value == 0
  rest = len(clips[0].waveform) - RATE
  assert given == [(RATE, rest, 5), (RATE, rest, 6)]


class LevelCodec(PartialCodec):
  """Codes the loudness of each 20 ms."""

  spec = CodecSpec(sample_rate=RATE, hop_length=320, num_quantizers=1, codebook_size=4096)
  codebooks = np.zeros((1, 4096, 1), np.float32)

  def encode_long(self, waveform):
    frames = waveform[: len(waveform) // 320 * 320].reshape(-1, 320)
    return (4000 * np.sqrt((frames**2).mean(-1)) * 2).astype(np.int32)[:, None]

  def decode(self, codes):
    return np.repeat(codes[..., 0] / 8000, 320, axis=-1).astype(np.float32)


def test_copies_of_the_prompt_and_of_the_training_set_are_counted(voice):
  codec = LevelCodec()
  clips = [EvalClip(str(i), voice(100 + 20 * i, 700, seed=i, seconds=6)) for i in range(2)]
  learned = voice(200, 900, seed=7, seconds=6)

  def tokenize(waveform):
    return codec.encode_long(waveform)[::2, 0] // 40

  def continuer(source):
    def continue_prompt(prompt, seed):
      whole = np.concatenate([prompt, source(prompt)])
      streams = {"semantic": tokenize(whole), "codes": codec.encode_long(whole)}
      return TimedContinuation(whole[len(prompt) :], 1.0, Encoded(streams))

    return continue_prompt

  training = [
    TokenClip("0", {"semantic": tokenize(learned), "codes": codec.encode_long(learned)}, "train")
  ]
  found = {}
  for name, source, known in (
    ("truth", lambda prompt: rest_of(clips, prompt), training),
    ("prompt", lambda prompt: prompt, ()),
    ("learned", lambda prompt: learned[:48_000], training),
    ("learned, unknown", lambda prompt: learned[:48_000], ()),
  ):
    result = continuation.continuation_suite(
      codec,
      tokenize,
      continuer(source),
      clips,
      Domain.MUSIC,
      training=known,
    )
    rows = {row.figure: row for row in result.rows if "copied" in row.figure}
    assert len(rows) == 4
    found[name] = [row.estimate.value for row in rows.values()]
    note = rows["seconds of codes of the first level copied, real"].note
    assert (
      note == f"in the prompt{' or in 1 training clips' if known else ''}; stretches of 50 tokens"
    )
  # Semantic tokens and codes, each of the continuation and of the real one.
  assert found["truth"] == found["learned, unknown"] == [0, 0, 0, 0]
  for name in ("prompt", "learned"):
    assert min(found[name][0], found[name][2]) > 0.9 and found[name][1] == found[name][3] == 0
