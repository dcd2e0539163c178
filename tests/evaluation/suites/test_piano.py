import dataclasses

import numpy as np
import pytest
import soundfile

from audiolm_jax.bundles import Bundle, save_bundle
from audiolm_jax.evaluation.clips import EvalClip
from audiolm_jax.evaluation.generation import TimedContinuation
from audiolm_jax.evaluation.music import SAME_KEY
from audiolm_jax.evaluation.options import Domain, Options
from audiolm_jax.evaluation.suites import piano
from audiolm_jax.lm import stages
from audiolm_jax.lm.stage import Stage
from tests.conftest import melody
from tests.evaluation.conftest import PulseCodec

RATE = 16_000
STEPS = (0, 4, 7, 12, 7, 4, 0, 7)  # an arpeggio


@pytest.fixture(scope="module")
def pieces(play):
  """Six seconds of an arpeggio each, in different keys and tempi: id, tonic, gap in seconds."""

  def make(tonic, gap):
    count = int(5.8 / gap)
    return play([(0.1 + gap * i, tonic + STEPS[i % 8]) for i in range(count)], 6.0)

  return [
    EvalClip(name, make(tonic, gap))
    for name, tonic, gap in (("a", 60, 0.4), ("a@6", 60, 0.4), ("b", 54, 0.2), ("c", 68, 0.7))
  ]


@pytest.fixture(scope="module")
def result(pieces, play):
  """Compares a continuer of the real continuations with one of random notes."""

  def faithful(prompt, seed):
    clip = next(c for c in pieces if np.array_equal(c.waveform[: len(prompt)], prompt))
    return TimedContinuation(clip.waveform[len(prompt) :], 0.1)

  def careless(prompt, seed):
    rng = np.random.default_rng(seed)
    notes = zip(np.sort(rng.uniform(0, 2.8, 30)), rng.integers(30, 100, 30), strict=True)
    return TimedContinuation(play(list(notes), 3.0), 0.1)

  continuers = {"continuation": faithful, "other continuation": careless}
  return piano.piano_suite(PulseCodec(), continuers, pieces, prompt_seconds=3.0)


def test_a_faithful_continuer_agrees_like_the_real_continuation(result):
  values = {row.figure: row.estimate for row in result.rows}
  for figure in ("chroma cosine", "correlation of key scores", "notes in the key"):
    assert values[f"{figure}, continuation"].value == pytest.approx(
      values[f"{figure}, real"].value, abs=0.1
    )
    assert values[f"{figure}, continuation"].value > 0.8
    assert values[f"{figure}, continuation"].value > values[f"{figure}, another piece's"].value
    assert values[f"{figure}, continuation"].value > values[f"{figure}, other continuation"].value
    assert values[f"{figure}, real"].n == 4


def test_the_faithful_continuer_is_the_nearer_one(result):
  rows = {row.figure: row for row in result.rows}
  for title in ("chroma cosine", "mean pitch difference"):
    wins = rows[f"{title} nearer to the real one, continuation than other continuation"]
    assert wins.estimate.value == 1.0 and wins.estimate.n == 4
  less = "continuation less other continuation"
  assert rows[f"chroma cosine, {less}"].estimate.low > 0
  assert rows[f"mean pitch difference, semitones, {less}"].estimate.high < 0
  assert rows[f"mean pitch difference, semitones, {less}"].metric.better == "lower"


def test_keys_are_kept_by_prompt_and_pieces_of_one_recording_are_no_others(result):
  assert result.details["keys"]["prompt"] == ["C major", "C major", "F# major", "Ab major"]
  assert result.details["recordings"] == 3
  # The other recordings of the two pieces of `a` are `b` and `c` alone, in other keys.
  np.testing.assert_array_equal(result.details["agreements"]["another piece's"][SAME_KEY], 0)


def test_pieces_of_one_recording_have_no_control(pieces, pulse_codec):
  def silence(prompt, seed):
    return TimedContinuation(np.zeros(RATE, np.float32), 0.1)

  rows = piano.piano_suite(
    pulse_codec, {"continuation": silence}, pieces[:2], prompt_seconds=3.0
  ).rows
  figures = {row.figure: row.estimate for row in rows}
  assert not any("another" in figure or "nearer" in figure for figure in figures)
  assert figures["chroma cosine, continuation"].value == 0.0
  assert figures["same key, continuation"].value == 0.0
  assert figures["notes in the key, continuation"].n == 0


@pytest.fixture
def acoustic_only(miniature_bundle, tmp_path) -> Bundle:
  """The miniature bundle with a coarse stage that reads no semantic tokens, and no other stage."""
  import jax
  from flax.core import meta

  from audiolm_jax.lm.transformer import Transformer

  codec = miniature_bundle.codec.spec
  spec = stages.coarse_stage(
    source=stages.Source.NONE,
    crop_seconds=2.0,
    num_target_quantizers=codec.num_quantizers,
    num_clusters=16,
    codebook_size=codec.codebook_size,
  )
  config = miniature_bundle.stages["coarse"].config
  tokens = np.zeros((1, 8), np.int32)
  model = Transformer(config, spec.layout.vocab_size, True)
  params = meta.unbox(jax.jit(model.init)(jax.random.key(5), tokens, tokens))["params"]
  stage = Stage(spec, config, params)
  return dataclasses.replace(miniature_bundle, name="ablation", stages={"coarse": stage})


def test_a_bundle_is_compared_with_its_acoustic_stages_alone(
  miniature_bundle, acoustic_only, tmp_path
):
  (tmp_path / "data" / "valid").mkdir(parents=True)
  for seed in range(2):
    soundfile.write(tmp_path / "data" / "valid" / f"{seed}.wav", melody(3.0, seed), RATE)
  other = save_bundle(acoustic_only, tmp_path / "ablation")
  options = Options(
    bundle="miniature",
    data=str(tmp_path / "data"),
    output_dir=str(tmp_path),
    other_bundle=str(other),
    domain=Domain.MUSIC,
    max_continuations=2,
    piece_seconds=1.0,
    prompt_seconds=2.0,
    duration=1.0,
  )
  result = piano.run(miniature_bundle, options)
  values = {row.figure: row.estimate for row in result.rows}
  assert values["chroma cosine, ablation continuation"].n == 2
  nearer = "chroma cosine nearer to the real one, continuation than ablation continuation"
  assert values[nearer].n == 2
  sounds = set(result.sounds.values())
  assert sounds == {f"piano{name}_{i}.flac" for name in ("", "_other") for i in range(2)}
  names = ("piano_0.flac", "piano_other_0.flac")
  first, second = (soundfile.read(tmp_path / name)[0] for name in names)
  assert len(first) == len(second) == 3 * RATE
  np.testing.assert_array_equal(first[: 2 * RATE], second[: 2 * RATE])
  assert not np.array_equal(first, second)
