"""The cascade: prompts kept, windows, chunks, modes."""

import dataclasses
import types

import numpy as np
import pytest
from helpers_lm import CONFIG, SPECS, random_clip, random_params

from audiolm_jax.errors import ConfigError, DataError
from audiolm_jax.lm.stages import Source, Stage
from audiolm_jax.sampling.cascade import Cascade, CascadeOptions, retokenizer
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.tokens import collapse_repeats

# Per second: 5 semantic tokens, 10 frames. Crops: semantic 4 s, coarse 2 s, fine 1 s.
FINE_CROP, COARSE_CROP = 10, 20
OPTIONS = CascadeOptions(overlap_seconds=0.6)


def stages(*names, **changes):
  """Stages with random weights; `changes` go to every spec."""
  specs = {n: dataclasses.replace(SPECS[n], **changes) for n in names}
  return {n: Stage(s, CONFIG, random_params(CONFIG, s)) for n, s in specs.items()}


def frames_to_steps(codes):
  """Stands for decoding and tokenizing: a token of each second frame's first code."""
  return codes[:, ::2, 0].astype(np.int32)


@pytest.fixture(scope="module")
def cascade():
  return Cascade(
    stages("semantic", "coarse", "fine"), semantic_rate=4.0, retokenize=frames_to_steps
  )


def prompt(frames, seeds=(0,)):
  clips = [random_clip(SPECS["coarse"], frames / 10, seed=s) for s in seeds]
  # One more step where a step is cut by the prompt's end, as a tokenizer gives it.
  semantic = [np.resize(z, -(-frames // 2)) for z, _ in clips]
  return semantic, np.stack([codes for _, codes in clips])


@pytest.mark.parametrize("frames", [4, 7, 10, 13])
def test_prompt_codes_are_a_bit_exact_prefix(cascade, frames):
  semantic, codes = prompt(frames, seeds=(0, 1))
  result = cascade.continuation(semantic, codes, num_frames=20, options=OPTIONS)
  assert result.codes.shape == (2, 20, 5)
  assert result.codes.min() >= 0
  assert result.codes.max() < 9
  np.testing.assert_array_equal(result.codes[:, :frames], codes)
  assert {"semantic", "coarse", "fine"} == set(result.timings)


def test_prompt_semantic_tokens_are_a_prefix_and_the_rest_is_new(cascade):
  semantic, codes = prompt(8, seeds=(0, 1))
  result = cascade.continuation(semantic, codes, num_frames=20, options=OPTIONS)
  for given, tokens in zip(semantic, result.semantic, strict=True):
    given = collapse_repeats(given)
    np.testing.assert_array_equal(tokens[: len(given)], given)
    assert (tokens[1:] != tokens[:-1]).all()
    assert tokens.max() < 11


@pytest.mark.parametrize(
  ("semantic", "new"),
  [
    ([1, 2, 3, 4], 6),  # 5 a second, 1.2 s to come
    ([1, 1, 2, 3], 5),  # 3.75 a second: 4.5 rounds to even, 4; see below
    ([1, 1, 1, 1], 2),  # 1.25 a second, held to half the mean: 2 a second
  ],
)
def test_new_semantic_tokens_come_at_the_prompts_own_rate(cascade, semantic, new):
  _, codes = prompt(8)
  result = cascade.continuation([np.array(semantic)], codes, num_frames=20, options=OPTIONS)
  rate = np.clip(len(collapse_repeats(np.array(semantic))) / 0.8, 2.0, 6.0)
  assert abs(new - 1.2 * rate) <= 0.5
  sampled = len(result.semantic[0]) - len(collapse_repeats(np.array(semantic)))
  assert sampled == round(1.2 * rate)


def test_a_batch_of_prompts_gives_what_they_give_one_by_one(cascade):
  semantic, codes = prompt(8, seeds=(0, 1, 2))
  semantic[1][:] = semantic[1][0]  # collapses to a single token: much shorter than the others
  arguments = dict(num_frames=20, seed=3, num_samples=2, options=OPTIONS)
  together = cascade.continuation(semantic, codes, **arguments)
  assert together.codes.shape[0] == 6
  for i in range(3):
    alone = cascade.continuation(semantic[i : i + 1], codes[i : i + 1], **arguments)
    np.testing.assert_array_equal(alone.codes, together.codes[2 * i : 2 * i + 2])
    for a, b in zip(alone.semantic, together.semantic[2 * i : 2 * i + 2], strict=True):
      np.testing.assert_array_equal(a, b)
    assert (alone.codes[0] != alone.codes[1]).any()


def test_same_seed_same_result_other_seed_another(cascade):
  semantic, codes = prompt(8)
  results = [
    cascade.continuation(semantic, codes, num_frames=20, seed=s, options=OPTIONS).codes
    for s in (1, 1, 2)
  ]
  np.testing.assert_array_equal(results[0], results[1])
  assert (results[0] != results[2]).any()


def test_more_samples_leave_the_first_ones_alone(cascade):
  one = cascade.unconditional(num_frames=12, seed=5, options=OPTIONS)
  three = cascade.unconditional(num_frames=12, seed=5, num_samples=3, options=OPTIONS)
  np.testing.assert_array_equal(one.codes, three.codes[:1])
  assert len({c.tobytes() for c in three.codes}) == 3


def test_unconditional_samples_come_at_the_corpus_rate(cascade):
  result = cascade.unconditional(num_frames=20, num_samples=2, options=OPTIONS)
  assert result.codes.shape == (2, 20, 5)
  assert [len(s) for s in result.semantic] == [8, 8]


def test_resynthesis_keeps_the_semantic_tokens(cascade):
  semantic, _ = random_clip(SPECS["coarse"], 4.8)
  result = cascade.resynthesis([semantic], num_frames=45, options=OPTIONS)
  np.testing.assert_array_equal(result.semantic[0], collapse_repeats(semantic[:23]))
  assert result.codes.shape == (1, 45, 5)
  assert "semantic" not in result.timings


def test_each_level_is_read_by_the_next(cascade):
  """Temperature 0 leaves the source as the only thing that can differ."""
  greedy = SamplingOptions(temperature=0.0)
  options = CascadeOptions(greedy, greedy, greedy)
  semantic = np.arange(10) % 11
  first = cascade.resynthesis([semantic], num_frames=20, options=options)
  second = cascade.resynthesis([semantic[::-1]], num_frames=20, options=options)
  assert (first.codes[:, :, :2] != second.codes[:, :, :2]).any()
  assert (first.codes[:, :, 2:] != second.codes[:, :, 2:]).any()


def test_long_clips_hear_what_they_made_before_going_on():
  heard = []

  def retokenize(codes):
    heard.append(codes)
    return frames_to_steps(codes)

  cascade = Cascade(stages("semantic", "coarse", "fine"), semantic_rate=4.0, retokenize=retokenize)
  semantic, codes = prompt(8, seeds=(0, 1))
  result = cascade.continuation(semantic, codes, num_frames=70, options=OPTIONS)
  assert result.codes.shape == (2, 70, 5)
  np.testing.assert_array_equal(result.codes[:, :8], codes)
  # Windows end at 22, 36, 50, 64, 70; each but the last is heard.
  assert [h.shape[1] for h in heard] == [20] * 4
  np.testing.assert_array_equal(heard[2], result.codes[:, 30:50, :2])
  assert result.timings["retokenize"] > 0
  alone = cascade.continuation(semantic[1:], codes[1:], num_frames=70, options=OPTIONS)
  np.testing.assert_array_equal(alone.codes[0], result.codes[1])


def test_long_clips_with_kept_repeats_need_no_retokenizing():
  cascade = Cascade(stages("semantic", "coarse", collapse_repeats=False))
  semantic, codes = prompt(7, seeds=(0, 1))
  result = cascade.continuation(semantic, codes[:, :, :2], num_frames=51, options=OPTIONS)
  assert result.codes.shape == (2, 51, 2)
  assert [len(s) for s in result.semantic] == [26, 26]
  np.testing.assert_array_equal(result.semantic[0][:4], semantic[0])


def test_long_collapsed_clips_without_retokenize_are_refused():
  cascade = Cascade(stages("semantic", "coarse"), semantic_rate=4.0)
  semantic, codes = prompt(8)
  with pytest.raises(ConfigError, match="retokenize"):
    cascade.continuation(semantic, codes, num_frames=50, options=OPTIONS)


def test_piano_has_no_fine_stage():
  cascade = Cascade(stages("semantic", "coarse"), semantic_rate=4.0)
  semantic, codes = prompt(8)
  result = cascade.continuation(semantic, codes, num_frames=20, options=OPTIONS)
  assert result.codes.shape == (1, 20, 2)
  np.testing.assert_array_equal(result.codes[:, :8], codes[:, :, :2])
  assert set(result.timings) == {"semantic", "coarse"}


@pytest.fixture(scope="module")
def acoustic_only():
  parts = stages("fine")
  spec = dataclasses.replace(SPECS["coarse"], source=Source.NONE)
  return Cascade(parts | {"coarse": Stage(spec, CONFIG, random_params(CONFIG, spec))})


def test_acoustic_only_needs_no_semantic_tokens(acoustic_only):
  _, codes = prompt(8)
  result = acoustic_only.continuation([np.zeros(0)], codes, num_frames=45, options=OPTIONS)
  assert result.codes.shape == (1, 45, 5)
  assert result.semantic == ()


def test_fine_chunks_do_not_depend_on_each_other(acoustic_only):
  short = acoustic_only.unconditional(num_frames=FINE_CROP, options=OPTIONS)
  long = acoustic_only.unconditional(num_frames=COARSE_CROP - 3, options=OPTIONS)
  np.testing.assert_array_equal(short.codes, long.codes[:, :FINE_CROP])


def test_progress_covers_every_stage(cascade):
  calls = {}
  cascade.unconditional(
    num_frames=20,
    options=OPTIONS,
    progress=lambda stage, done, total: calls.setdefault(stage, []).append((done, total)),
  )
  assert {name: c[-1] for name, c in calls.items()} == {
    "semantic": (8, 8),
    "coarse": (40, 40),
    "fine": (30, 30),
  }


def test_retokenizer_goes_by_way_of_the_waveform():
  codec = types.SimpleNamespace(
    spec=types.SimpleNamespace(sample_rate=10),
    decode=lambda codes: np.repeat(codes[:, :, 0], 2, axis=1) / 10,
  )
  tokenizer = types.SimpleNamespace(
    spec=types.SimpleNamespace(sample_rate=10),
    tokenize=lambda waveform: np.round(waveform[:, ::4] * 10).astype(np.int32),
  )
  codes = np.arange(8).reshape(1, 4, 2)
  np.testing.assert_array_equal(retokenizer(codec, tokenizer)(codes), [[0, 4]])


def test_prompts_that_do_not_fit_are_refused_in_words(cascade):
  semantic, codes = prompt(8)
  with pytest.raises(DataError, match="the prompt has 8 frames"):
    cascade.continuation(semantic, codes, num_frames=8)
  with pytest.raises(DataError, match="at least 5 quantizers"):
    cascade.continuation(semantic, codes[:, :, :2], num_frames=20)
  with pytest.raises(DataError, match="need 4 steps each"):
    cascade.continuation([semantic[0][:2]], codes, num_frames=20)


@pytest.mark.parametrize(
  ("names", "changes", "message"),
  [
    (("semantic", "fine"), {}, "needs a coarse stage"),
    (("coarse", "fine"), {"frame_rate": 20.0}, "disagree on frame_rate"),
    (("coarse", "fine"), {"num_source_quantizers": 1}, "reads 1 levels, the coarse stage makes 2"),
    (("coarse", "semantic"), {"collapse_repeats": False}, "both collapse repeats, or neither"),
  ],
)
def test_stages_that_do_not_fit_together_are_refused(names, changes, message):
  parts = stages(*names)
  last = parts[names[-1]]
  parts[names[-1]] = dataclasses.replace(last, spec=dataclasses.replace(last.spec, **changes))
  with pytest.raises(ConfigError, match=message):
    Cascade(parts, semantic_rate=4.0)


def test_collapsing_stages_need_the_corpus_rate():
  with pytest.raises(ConfigError, match="semantic_rate"):
    Cascade(stages("semantic", "coarse"))
