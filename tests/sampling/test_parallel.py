"""Sampling of the parallel stage: windows, passes and independence of rows."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers_parallel import CONFIG, CROP, LEVELS, SIZE, SPEC, parallel_params

from audiolm_jax.core.errors import UserError
from audiolm_jax.lm.parallel import UNKNOWN
from audiolm_jax.lm.stage import Stage
from audiolm_jax.sampling import parallel_decoder
from audiolm_jax.sampling.cascade import Cascade, CascadeOptions, Clip
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.sampling.parallel_decoder import Gap, Pass, Rows, _drawn, choose, encode
from audiolm_jax.sampling.processors import Processor

OVERLAP = 0.12


@pytest.fixture(scope="module")
def stage():
  return Stage(SPEC, CONFIG, parallel_params())


@pytest.fixture(scope="module")
def cascade(stage):
  return Cascade({"parallel": stage})


def clip_of(frames, prompt, seed=0):
  rng = np.random.default_rng(seed)
  codes = rng.integers(0, SIZE, (prompt, LEVELS)).astype(np.int32)
  return Clip(frames, {"codes": codes}, {"semantic": rng.integers(0, 8, -(-frames // 2))})


def options_of(**values):
  return CascadeOptions({"parallel": SamplingOptions(**values)}, overlap_seconds=OVERLAP)


def keys_of(count):
  return jax.random.split(jax.random.key(0), count)


def test_rows_of_any_lengths_equal_single_ones_and_begin_with_their_prompts(cascade):
  clips = [clip_of(20, 4, seed=1), clip_of(9, 0, seed=2)]
  together = cascade.sample(clips, seed=3, options=options_of()).codes
  for codes, clip in zip(together, clips, strict=True):
    (alone,) = cascade.sample([clip], seed=3, options=options_of()).codes
    (other,) = cascade.sample([clip], seed=4, options=options_of()).codes
    np.testing.assert_array_equal(codes, alone)
    assert (codes != other).any()
    assert codes.shape == (clip.num_frames, LEVELS)
    assert 0 <= codes.min() <= codes.max() < SIZE
    known = clip.prompt["codes"]
    np.testing.assert_array_equal(codes[: len(known)], known)


def test_a_stream_yields_the_codes_of_a_sample_window_by_window(cascade):
  clip, reports = clip_of(25, 4, seed=1), []
  whole = cascade.sample([clip], seed=3, options=options_of()).codes[0]
  stream = cascade.stream(
    clip, seed=3, options=options_of(), progress=lambda *report: reports.append(report)
  )
  pieces = [*stream]
  np.testing.assert_array_equal(np.concatenate(pieces), whole)
  assert [len(piece) for piece in pieces] == [4, 8, 6, 6, 1]
  assert reports[:2] == [("parallel", 0, 36), ("parallel", 12, 36)]


def test_a_first_window_can_be_short_and_the_next_ones_twice_as_long(cascade):
  clip = clip_of(25, 4, seed=1)
  options = options_of(lookahead=2 / SPEC.frame_rate)
  pieces = [*cascade.stream(clip, seed=3, options=options)]
  assert [len(piece) for piece in pieces] == [4, 2, 4, 6, 6, 3]
  whole = cascade.sample([clip], seed=3, options=options).codes[0]
  np.testing.assert_array_equal(np.concatenate(pieces), whole)
  together = cascade.sample([clip, clip_of(9, 0, seed=2)], seed=3, options=options).codes
  np.testing.assert_array_equal(together[0], whole)


def test_a_stage_can_have_its_own_overlap(stage):
  filling = dataclasses.replace(CONFIG.filling, overlap_seconds=0.04)
  own = Stage(SPEC, dataclasses.replace(CONFIG, filling=filling), stage.params)
  stream = Cascade({"parallel": own}).stream(clip_of(22, 4, seed=1), options=options_of())
  assert [len(piece) for piece in stream] == [4, 10, 8]


def test_levels_can_have_temperatures_of_their_own(stage):
  gaps = [Gap(np.zeros(CROP, np.int32), np.zeros((2, LEVELS), np.int32))]

  def filled(temperature: float, *factors: float):
    filling = dataclasses.replace(CONFIG.filling, temperatures=factors)
    own = Stage(SPEC, dataclasses.replace(CONFIG, filling=filling), stage.params)
    decoder = parallel_decoder.ParallelDecoder(own)
    return decoder.fill(gaps, keys_of(1), SamplingOptions(temperature))[0]

  greedy, drawn = filled(0, 1), filled(0.8, 1)
  np.testing.assert_array_equal(filled(0.8, 0), greedy)
  np.testing.assert_array_equal(filled(0.4, 2), drawn)
  first, finer = filled(0.8, 0, 1), filled(0.8, 1, 0)
  np.testing.assert_array_equal(first[:, 0], greedy[:, 0])
  np.testing.assert_array_equal(finer[:, 0], drawn[:, 0])
  assert (first[:, 1:] != greedy[:, 1:]).any() and (finer[:, 1:] != drawn[:, 1:]).any()


def test_windows_without_the_prompt_begin_with_its_voice(stage, monkeypatch):
  filling = dataclasses.replace(CONFIG.filling, overlap_seconds=0.06, voice_seconds=0.08)
  cascade = Cascade(
    {"parallel": Stage(SPEC, dataclasses.replace(CONFIG, filling=filling), stage.params)}
  )
  fill, gaps = parallel_decoder.ParallelDecoder.fill, []

  def noted(self, given, *arguments, **settings):
    gaps.extend(given)
    return fill(self, given, *arguments, **settings)

  monkeypatch.setattr(parallel_decoder.ParallelDecoder, "fill", noted)
  clip, other = clip_of(24, 5, seed=1), clip_of(17, 0, seed=2)
  (codes,) = cascade.sample([clip], options=options_of()).codes
  # Frames 0 to 11; then four frames of the voice, at most three known ones and up to five new ones.
  assert [(gap.start, len(gap.known), len(gap.semantic)) for gap in gaps] == [
    (0, 5, 12), (4, 8, 12), (8, 8, 12), (12, 8, 12),
  ]  # fmt: skip
  semantic = np.repeat(clip.given["semantic"], 2)
  for gap in gaps[1:]:
    begin = gap.start + 4
    np.testing.assert_array_equal(gap.known, codes[[*range(4), *range(begin, begin + 4)]])
    np.testing.assert_array_equal(gap.semantic, semantic[[*range(4), *range(begin, begin + 8)]])
  pieces = [*cascade.stream(clip, options=options_of())]
  np.testing.assert_array_equal(np.concatenate(pieces), codes)
  together = cascade.sample([clip, other], options=options_of()).codes
  np.testing.assert_array_equal(together[0], codes)
  np.testing.assert_array_equal(together[1], cascade.sample([other], options=options_of()).codes[0])


def test_the_passes_and_the_programs_are_counted(stage, monkeypatch):
  """Levels with 0 passes use the output of the pass before; no setting compiles a program."""
  decoder = parallel_decoder.ParallelDecoder(stage)
  gaps = [Gap(np.zeros(CROP, np.int32), np.zeros((2, LEVELS), np.int32))]
  runs = []
  monkeypatch.setattr(
    parallel_decoder, "encode", lambda *arguments: runs.append(1) or encode(*arguments)
  )

  def passes(values):
    runs.clear()
    decoder.fill(gaps, keys_of(1), SamplingOptions(0.7, passes=values))
    return len(runs)

  assert decoder.passes(SamplingOptions()) == (4, 2, 1)
  assert passes(None) == 7
  programs = encode._cache_size(), choose._cache_size()
  assert (passes((3, 0, 0)), passes((1,)), passes((5, 4, 0))) == (3, 3, 9)
  assert (encode._cache_size(), choose._cache_size()) == programs
  for wrong, words in (
    ((0, 1), "give at most 3 numbers"),
    ((1, 1, 1, 1), "give at most 3 numbers"),
    ((1, -1), "a number of passes is -1"),
  ):
    with pytest.raises(UserError, match=words):
      passes(wrong)


def pass_of(level, masked, guidance=1.0, temperature=1.0):
  scalars = (np.int32(level), np.int32(0), np.float32(masked), np.float32(0.0))
  return Pass(*scalars, np.float32(guidance), SamplingOptions(temperature).controls)


def test_a_pass_keeps_the_most_confident_codes_of_one_level(stage):
  """With certain outputs for some frames, these are kept first."""
  params = jax.tree.map(np.zeros_like, stage.params) | {"codebooks": stage.params["codebooks"]}
  head = np.zeros((LEVELS, 16, SIZE), np.float32)
  head[1, 0, 5] = 1.0
  hidden = np.zeros((1, CROP, 16), np.float32)
  certain = [3, 6, 7]
  hidden[0, certain, 0] = 50.0
  codes = np.full((1, CROP, LEVELS), UNKNOWN, np.int32)
  codes[:, :2], codes[..., 0] = 1, 2
  rows = Rows(keys_of(1), *(np.array([n], np.int32) for n in (0, 2, 11)))  # pyright: ignore[reportArgumentType]: NumPy arrays serve
  found = np.asarray(
    choose(SPEC, CONFIG, (), params | {"head": head}, hidden, codes, rows, pass_of(1, 0.7))
  )
  new = np.flatnonzero(found[0, 2:, 1] != UNKNOWN) + 2
  assert new.tolist() == certain  # 9 new frames, of which floor(0.7 * 9) = 6 stay masked
  assert (found[0, certain, 1] == 5).all()
  np.testing.assert_array_equal(found[0, :2], codes[0, :2])
  np.testing.assert_array_equal(found[..., [0, 2]], codes[..., [0, 2]])
  last = np.asarray(
    choose(SPEC, CONFIG, (), params | {"head": head}, hidden, found, rows, pass_of(1, 0.0))
  )
  assert (last[0, :11, 1] != UNKNOWN).all() and last[0, 11, 1] == UNKNOWN
  np.testing.assert_array_equal(last[0, new, 1], found[0, new, 1])


def test_guidance_extrapolates_from_the_logits_without_semantic_tokens(stage):
  model = SPEC.model(CONFIG)
  hidden = np.random.default_rng(0).normal(size=(2, CROP, 16)).astype(np.float32)
  codes = np.full((1, CROP, LEVELS), UNKNOWN, np.int32)
  variables = {"params": stage.params}
  twice = np.tile(codes, (2, 1, 1))

  @jax.jit
  def logits(hidden):
    vectors = model.apply(variables, twice, method="vectors")
    return model.apply(variables, hidden, vectors, twice, 0, method="level_logits")

  given, without = np.asarray(logits(hidden))
  rows = Rows(keys_of(1), *(np.array([n], np.int32) for n in (0, 0, CROP)))  # pyright: ignore[reportArgumentType]: NumPy arrays serve
  settings = pass_of(0, 0.0, guidance=2.5, temperature=0.0)
  found = np.asarray(choose(SPEC, CONFIG, (), stage.params, hidden, codes, rows, settings))
  expected = (without + 2.5 * (given - without)).argmax(-1)
  np.testing.assert_array_equal(found[0, :, 0], expected)
  assert (expected != given.argmax(-1)).any()


def test_guidance_changes_the_codes(cascade):
  clip = clip_of(9, 0, seed=2)
  plain, same, guided = (
    cascade.sample([clip], options=options_of(temperature=0.0, guidance=value)).codes[0]
    for value in (None, 1.0, 4.0)
  )
  np.testing.assert_array_equal(plain, same)
  assert (plain != guided).any()


def test_guidance_of_the_coarsest_levels_leaves_the_others_as_they_are(stage):
  def codes_of(guided_levels, guidance):
    filling = dataclasses.replace(CONFIG.filling, guided_levels=guided_levels)
    own = Cascade({"parallel": Stage(SPEC, dataclasses.replace(CONFIG, filling=filling), params)})
    options = options_of(temperature=0.0, guidance=guidance, passes=(2, 1, 0))
    return own.sample([clip_of(9, 0, seed=2)], options=options).codes[0]

  params = stage.params
  whole, first, none, plain = (codes_of(*a) for a in ((None, 4), (1, 4), (0, 4), (None, 1)))
  np.testing.assert_array_equal(none, plain)
  np.testing.assert_array_equal(first[:, 0], whole[:, 0])
  assert (first != whole).any() and (first[:, 0] != plain[:, 0]).any()


def test_points_are_quantized_in_one_pass(cascade, stage):
  clip = clip_of(9, 2, seed=2)
  found = cascade.sample([clip], options=options_of(passes=())).codes[0]
  model = SPEC.model(CONFIG)
  codes = np.full((1, 9, LEVELS), UNKNOWN, np.int32)
  codes[0, :2] = clip.prompt["codes"]

  @jax.jit
  def nearest(params, codes, semantic, valid):
    variables = {"params": params}
    hidden = model.apply(variables, codes, semantic, valid, method="hidden")
    point = model.apply(variables, hidden, method="predicted_point")
    return model.apply(variables, point, method="nearest_codes")

  semantic = SPEC.by_frame(clip.given["semantic"], 9)[None]
  expected = np.asarray(nearest(stage.params, codes, semantic, np.ones((1, 9), bool)))[0]
  np.testing.assert_array_equal(found[:2], clip.prompt["codes"])
  np.testing.assert_array_equal(found[2:], expected[2:])


def test_codes_are_drawn_with_their_probabilities():
  probabilities = np.array([0.1, 0.0, 0.6, 0.3])
  logits = np.log(np.maximum(probabilities, 1e-30)).astype(np.float32)
  uniform = (np.arange(1000, dtype=np.float32) + 0.5) / 1000
  drawn, confidence = _drawn(np.tile(logits, (1000, 1)), uniform, SamplingOptions(1.0).controls)  # pyright: ignore[reportArgumentType]: NumPy arrays serve
  np.testing.assert_array_equal(np.bincount(drawn, minlength=4), [100, 0, 600, 300])
  np.testing.assert_allclose(np.exp(confidence), probabilities[np.asarray(drawn)], rtol=1e-5)
  drawn, _ = _drawn(np.tile(logits, (1000, 1)), uniform, SamplingOptions(1.0, top_k=2).controls)  # pyright: ignore[reportArgumentType]: NumPy arrays serve
  np.testing.assert_allclose(np.bincount(drawn, minlength=4), [0, 0, 667, 333], atol=1)


class Last(Processor):
  """Runs after temperature, top-k and top-p."""

  @property
  def is_last(self):
    return True

  def __call__(self, logits, context, arrays):
    raise AssertionError("this processor must not run")


def test_settings_that_do_not_fit_the_kind_are_refused(stage):
  with pytest.raises(UserError, match="no processors that run after temperature"):
    Cascade({"parallel": stage}).sample([clip_of(9, 0)], options=options_of(processors=(Last(),)))
  plain = Stage(SPEC, dataclasses.replace(CONFIG, heads="plain"), stage.params)
  with pytest.raises(UserError, match="plain heads, which predict no points"):
    Cascade({"parallel": plain}).sample([clip_of(9, 0)], options=options_of(passes=()))
  with pytest.raises(UserError, match="guidance is -1"):
    SamplingOptions(guidance=-1)
  with pytest.raises(UserError, match="lookahead is 0, so no window"):
    SamplingOptions(lookahead=0)
