"""The cascade: prompts kept, windows, chunks, modes."""

import dataclasses
import types

import numpy as np
import pytest
from helpers_lm import CONFIG, SPECS, random_clip, random_params

from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.lm.stage import Stage
from audiolm_jax.lm.stages import Source
from audiolm_jax.lm.tokens import collapse_repeats
from audiolm_jax.sampling.cascade import Cascade, CascadeOptions, Clip, retokenizer
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.sampling.semantic_targets import CollapsedRepeats

# Per second: 5 semantic tokens, 10 frames. Crops: semantic 4 s, coarse 2 s, fine 1 s.
FINE_CROP, COARSE_CROP = 10, 20
OPTIONS = CascadeOptions(overlap_seconds=0.6)


def stages(*names, **changes):
  """Stages with random weights; `changes` go to every spec."""
  specs = {n: dataclasses.replace(SPECS[n], **changes) for n in names}
  return {n: Stage(s, CONFIG, random_params(CONFIG, s)) for n, s in specs.items()}


def frames_to_steps(codes):
  """Stands for decoding and tokenizing: a token of each second frame's first code."""
  return codes[::2, 0].astype(np.int32)


@pytest.fixture(scope="module")
def cascade():
  return Cascade(
    stages("semantic", "coarse", "fine"), semantic_rate=4.0, retokenize=frames_to_steps
  )


def clip(frames, total, seed=0):
  """`frames` of a prompt, to become `total`."""
  semantic, codes = random_clip(SPECS["coarse"], frames / 10, seed=seed)
  # One more step where a step is cut by the prompt's end, as a tokenizer gives it.
  return Clip(total, {"semantic": np.resize(semantic, -(-frames // 2)), "codes": codes})


def changed(clip, **prompt):
  """The clip with other prompts."""
  return clip._replace(prompt={**clip.prompt, **prompt})


def sample(cascade, *clips, **settings):
  return cascade.sample(clips, **({"options": OPTIONS} | settings))


@pytest.mark.parametrize("frames", [4, 7, 10, 13])
def test_prompt_codes_are_a_bit_exact_prefix(cascade, frames):
  clips = [clip(frames, 20, seed) for seed in (0, 1)]
  result = sample(cascade, *clips)
  for given, codes in zip(clips, result.codes, strict=True):
    assert codes.shape == (20, 5)
    assert codes.min() >= 0
    assert codes.max() < 9
    np.testing.assert_array_equal(codes[:frames], given.prompt["codes"])
  assert {"semantic", "coarse", "fine"} == set(result.timings)


def test_prompt_semantic_tokens_are_a_prefix_and_the_rest_is_new(cascade):
  clips = [clip(8, 20, seed) for seed in (0, 1)]
  for given, tokens in zip(clips, sample(cascade, *clips).semantic, strict=True):
    given = collapse_repeats(given.prompt["semantic"])
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
  semantic = np.array(semantic)
  result = sample(cascade, changed(clip(8, 20), semantic=semantic))
  rate = np.clip(len(collapse_repeats(semantic)) / 0.8, 2.0, 6.0)
  assert abs(new - 1.2 * rate) <= 0.5
  sampled = len(result.semantic[0]) - len(collapse_repeats(semantic))
  assert sampled == round(1.2 * rate)


def assert_equal_one_by_one(cascade, clips):
  together = sample(cascade, *clips, seed=3, num_samples=2)
  assert [len(codes) for codes in together.codes] == [c.num_frames for c in clips for _ in "12"]
  for i, alone in enumerate(clips):
    alone = sample(cascade, alone, seed=3, num_samples=2)
    for row in range(2):
      np.testing.assert_array_equal(alone.codes[row], together.codes[2 * i + row])
      np.testing.assert_array_equal(alone.semantic[row], together.semantic[2 * i + row])
    assert (alone.codes[0] != alone.codes[1]).any()


def test_a_batch_of_prompts_gives_what_they_give_one_by_one(cascade):
  clips = [clip(8, 20, seed) for seed in (0, 1, 2)]
  clips[1].prompt["semantic"][:] = 4  # collapses to a single token: much shorter than the others
  assert_equal_one_by_one(cascade, clips)


@pytest.mark.parametrize("collapse", [True, False])
def test_prompts_and_clips_of_unequal_lengths_give_what_they_give_one_by_one(cascade, collapse):
  """With one, two and four windows, and fine chunks that begin and end at different frames."""
  if not collapse:
    cascade = Cascade(stages("semantic", "coarse", "fine", collapse_repeats=False))
  lengths = [(4, 19), (13, 31), (7, 55), (8, 20)]
  assert_equal_one_by_one(cascade, [clip(*pair, seed=i) for i, pair in enumerate(lengths)])


def test_same_seed_same_result_other_seed_another(cascade):
  results = [sample(cascade, clip(8, 20), seed=s).codes[0] for s in (1, 1, 2)]
  np.testing.assert_array_equal(results[0], results[1])
  assert (results[0] != results[2]).any()


def test_more_samples_leave_the_first_ones_alone(cascade):
  one = sample(cascade, Clip(12), seed=5)
  three = sample(cascade, Clip(12), seed=5, num_samples=3)
  np.testing.assert_array_equal(one.codes[0], three.codes[0])
  assert len({c.tobytes() for c in three.codes}) == 3


def test_unconditional_samples_come_at_the_corpus_rate(cascade):
  result = sample(cascade, Clip(20), num_samples=2)
  assert [codes.shape for codes in result.codes] == [(20, 5)] * 2
  assert [len(s) for s in result.semantic] == [8, 8]


def test_resynthesis_keeps_the_semantic_tokens(cascade):
  semantic, _ = random_clip(SPECS["coarse"], 4.8)
  result = sample(cascade, Clip(45, given={"semantic": semantic}))
  np.testing.assert_array_equal(result.semantic[0], collapse_repeats(semantic[:23]))
  assert result.codes[0].shape == (45, 5)
  assert "semantic" not in result.timings


def test_each_level_is_read_by_the_next(cascade):
  """Temperature 0 leaves the source as the only thing that can differ."""
  greedy = SamplingOptions(temperature=0.0)
  options = CascadeOptions(dict.fromkeys(("semantic", "coarse", "fine"), greedy))
  semantic = np.arange(10) % 11
  first, second = (
    sample(cascade, Clip(20, given={"semantic": tokens}), options=options).codes[0]
    for tokens in (semantic, semantic[::-1])
  )
  assert (first[:, :2] != second[:, :2]).any()
  assert (first[:, 2:] != second[:, 2:]).any()


def test_each_window_of_a_long_clip_is_encoded_before_the_next_one():
  encoded = []

  def retokenize(codes):
    encoded.append(codes)
    return frames_to_steps(codes)

  cascade = Cascade(stages("semantic", "coarse", "fine"), semantic_rate=4.0, retokenize=retokenize)
  given = clip(8, 70)
  result = sample(cascade, given)
  assert result.codes[0].shape == (70, 5)
  np.testing.assert_array_equal(result.codes[0][:8], given.prompt["codes"])
  # Windows end at 22, 36, 50, 64, 70; each but the last is encoded.
  assert [len(part) for part in encoded] == [20] * 4
  np.testing.assert_array_equal(encoded[2], result.codes[0][30:50, :2])
  assert result.timings["retokenize"] > 0


def test_long_clips_with_kept_repeats_need_no_retokenizing():
  cascade = Cascade(stages("semantic", "coarse", collapse_repeats=False))
  clips = [clip(7, 51, seed) for seed in (0, 1)]
  result = sample(cascade, *clips)
  assert [codes.shape for codes in result.codes] == [(51, 2)] * 2
  assert [len(s) for s in result.semantic] == [26, 26]
  np.testing.assert_array_equal(result.semantic[0][:4], clips[0].prompt["semantic"])


def test_long_collapsed_clips_without_retokenize_are_refused():
  cascade = Cascade(stages("semantic", "coarse"), semantic_rate=4.0)
  with pytest.raises(ConfigError, match="retokenize"):
    sample(cascade, clip(8, 50))


def test_piano_has_no_fine_stage():
  cascade = Cascade(stages("semantic", "coarse"), semantic_rate=4.0)
  given = clip(8, 20)
  result = sample(cascade, given)
  assert result.codes[0].shape == (20, 2)
  np.testing.assert_array_equal(result.codes[0][:8], given.prompt["codes"][:, :2])
  assert set(result.timings) == {"semantic", "coarse"}


@pytest.mark.parametrize("names", [("semantic", "coarse", "fine"), ("semantic", "coarse")])
@pytest.mark.parametrize("lengths", [(0, 9), (4, 20), (7, 55), (13, 47)])
def test_streamed_codes_are_those_of_the_whole_piece_by_piece(names, lengths):
  cascade = Cascade(stages(*names), semantic_rate=4.0, retokenize=frames_to_steps)
  given = clip(*lengths) if lengths[0] else Clip(lengths[1])
  pieces = list(cascade.stream(given, seed=4, options=OPTIONS))
  (whole,) = sample(cascade, given, seed=4).codes
  np.testing.assert_array_equal(np.concatenate(pieces), whole)
  assert len(pieces) >= 2 if lengths[1] > 20 else 1
  assert all(len(piece) for piece in pieces)
  if lengths[0]:
    np.testing.assert_array_equal(pieces[0], whole[: lengths[0]])


def test_a_stream_draws_no_further_than_it_is_read(cascade, monkeypatch):
  """New sound begins with the first fine chunk, before the second window."""
  windows = []
  original = CollapsedRepeats.windows
  monkeypatch.setattr(
    CollapsedRepeats, "windows", lambda *args: windows.append(args[3]) or original(*args)
  )
  stream = cascade.stream(clip(8, 70), options=OPTIONS)
  assert (len(next(stream)), windows) == (8, [])  # the prompt
  assert len(next(stream)) > 0 and windows == [0]
  list(stream)
  assert windows == [0, 1, 2, 3, 4]


def test_streamed_semantic_tokens_that_no_stage_reads_are_those_of_a_sample():
  spec = dataclasses.replace(SPECS["semantic"], collapse_repeats=False)
  alone = Cascade({"semantic": Stage(spec, CONFIG, random_params(CONFIG, spec))})
  given = Clip(3 * spec.crop_steps)  # windows of an example would sample other tokens
  (whole,) = alone.sample([given], seed=2).semantic
  pieces = list(alone.stream(given, seed=2))
  assert len(whole) == given.num_frames
  np.testing.assert_array_equal(np.concatenate(pieces), whole)


@pytest.fixture(scope="module")
def acoustic_only():
  parts = stages("fine")
  spec = dataclasses.replace(SPECS["coarse"], source=Source.NONE)
  return Cascade(parts | {"coarse": Stage(spec, CONFIG, random_params(CONFIG, spec))})


def test_acoustic_only_needs_no_semantic_tokens(acoustic_only):
  result = sample(acoustic_only, clip(8, 45))
  assert result.codes[0].shape == (45, 5)
  assert result.semantic == ()


def test_fine_chunks_do_not_depend_on_each_other(acoustic_only):
  short, long = sample(acoustic_only, Clip(FINE_CROP), Clip(COARSE_CROP - 3)).codes
  np.testing.assert_array_equal(short, long[:FINE_CROP])


def test_progress_covers_every_stage(cascade):
  calls = {}
  sample(
    cascade,
    Clip(20),
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
  codes = np.arange(8).reshape(4, 2)
  np.testing.assert_array_equal(retokenizer(codec, tokenizer)(codes), [0, 4])  # pyright: ignore[reportArgumentType]: a double


def test_prompts_that_do_not_fit_are_refused_in_words(cascade):
  given = clip(8, 20)
  for wrong, message in [
    (given._replace(num_frames=8), "the prompt has 8 frames"),
    (changed(given, codes=given.prompt["codes"][:, :2]), "at least 5 quantizers"),
    (
      changed(given, semantic=given.prompt["semantic"][:2]),
      "2 semantic tokens do not cover 8 frames; 4 are needed",
    ),
    (
      Clip(20, given={"semantic": given.prompt["semantic"]}),
      "4 semantic tokens do not cover 20 frames; 10 are needed",
    ),
    (Clip(None), "no length, and no stage ends it"),
  ]:
    with pytest.raises(DataError, match=message):
      sample(cascade, wrong)
  with pytest.raises(DataError, match="apart"):
    sample(cascade, given, Clip(8, given={"semantic": given.prompt["semantic"]}))


@pytest.mark.parametrize(
  ("names", "changes", "message"),
  [
    (("coarse", "fine"), {"frame_rate": 20.0}, "disagree on the rate of codes: 20.0 and 10.0"),
    (("coarse", "fine"), {"num_source_quantizers": 1}, "reads 1 levels, the coarse stage makes 2"),
    (
      ("coarse", "semantic"),
      {"collapse_repeats": False},
      "both collapse repeats of semantic, or neither",
    ),
  ],
)
def test_stages_that_do_not_fit_together_are_refused(names, changes, message):
  parts = stages(*names)
  last = parts[names[-1]]
  parts[names[-1]] = dataclasses.replace(last, spec=dataclasses.replace(last.spec, **changes))
  with pytest.raises(ConfigError, match=message):
    Cascade(parts, semantic_rate=4.0)


def test_tokens_that_no_stage_writes_and_no_clip_gives_are_refused():
  cascade = Cascade(stages("fine"))
  with pytest.raises(ConfigError, match="read codes, which no stage writes and the clips do not"):
    sample(cascade, clip(8, 20))


def test_collapsing_stages_need_the_corpus_rate():
  with pytest.raises(ConfigError, match="semantic_rate"):
    Cascade(stages("semantic", "coarse"))
