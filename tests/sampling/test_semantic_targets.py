"""Semantic tokens that a stage samples, window by window of its reader."""

import dataclasses

import numpy as np
import pytest
from helpers_lm import SPECS

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.streams import Stream
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.sampling.pull import Call, Given, Targets
from audiolm_jax.sampling.semantic_targets import CollapsedRepeats, KeptRepeats
from audiolm_jax.sampling.windows import Window

# Per second: 5 semantic tokens, 10 frames.
FRAME_RATE = 10.0
PROMPT = np.array([1, 1, 2, 2, 3], np.int32)


class Recorder:
  """Stands for the semantic stage: remembers what it is asked, draws the token 6."""

  def __init__(self):
    self.asked = []

  def __call__(self, prompts, count, index):
    self.asked.append(([p.tokens.tolist() for p in prompts.values()], count, index))
    ids = SPECS["semantic"].layout.semantic_to_ids(np.full(count, 6))
    return dict.fromkeys(prompts, np.asarray(ids))


class Reader(Targets):
  """Codes that never grow."""

  def extend(self, until, index=0):
    return False


def source(draw, collapse, retokenize=None, prompts=(PROMPT,), num_frames=60, **changes):
  spec = dataclasses.replace(SPECS["semantic"], collapse_repeats=collapse, **changes)
  call = Call(
    seconds=[num_frames / FRAME_RATE],
    samples=[0],
    seed=0,
    options=lambda name: SamplingOptions(),
    overlap_seconds=0.6,
    progress=None,
  )
  if collapse:
    made = CollapsedRepeats(spec, call, list(prompts), draw, 4.0)
  else:
    made = KeptRepeats(spec, call, list(prompts), draw)
  made.is_read_by(Reader(SPECS["coarse"], call, {}, [np.zeros((20, 2), np.int32)]), retokenize)
  return made


def window_of(source, window, index):
  """Of the only row."""
  return source.windows({0: window}, FRAME_RATE, index)[0]


@pytest.mark.parametrize(("collapse", "tokens"), [(True, [1, 2, 3]), (False, [1, 1, 2, 2, 3])])
def test_given_tokens_are_cut_to_the_window_with_their_repeats(collapse, tokens):
  given = Given(Stream("semantic", 11, 5.0), [PROMPT], collapse)
  np.testing.assert_array_equal(window_of(given, Window(2, 4, 8), 0), PROMPT[1:4])
  np.testing.assert_array_equal(given.tokens()[0], tokens)
  assert given.end(0) == 1.0


def test_kept_repeats_are_drawn_as_far_ahead_as_an_example_reaches():
  draw = Recorder()
  sampled = source(draw, collapse=False)
  window = window_of(sampled, Window(0, 10, 20), 0)
  assert window.tolist() == [1, 1, 2, 2, 3, 6, 6, 6, 6, 6]
  later = window_of(sampled, Window(14, 20, 34), 1)
  assert later.tolist() == 10 * [6]
  assert [(count, index) for _, count, index in draw.asked] == [
    (15, 0)
  ]  # 20 steps, 5 of them known
  last = window_of(sampled, Window(40, 46, 60), 2)
  assert last.tolist() == 10 * [6]
  prompts, count, index = draw.asked[1]
  assert (len(prompts[0]), count, index) == (10, 10, 2)  # half an example of history, half of new
  assert sampled.tokens()[0].tolist() == [1, 1, 2, 2, 3] + 25 * [6]


def test_a_call_samples_a_piece_until_the_time_is_reached():
  sampled = source(Recorder(), collapse=False)
  assert sampled.extend({0: 2.0})
  assert len(sampled.rows[0]) == 20
  assert not sampled.extend({0: 2.0}) and not sampled.extend({0: 4.0})
  assert sampled.extend({0: 4.1})
  given = Given(Stream("semantic", 11, 5.0), [PROMPT], collapse=False)
  assert not given.extend({0: 2.0})


def test_kept_repeats_end_with_the_clip():
  draw = Recorder()
  sampled = source(draw, collapse=False, num_frames=14)
  window = window_of(sampled, Window(0, 10, 14), 0)
  assert window.tolist() == [1, 1, 2, 2, 3, 6, 6]
  assert sampled.tokens()[0].tolist() == window.tolist()


def test_a_long_run_in_the_prompt_is_read_as_the_stage_reads_runs():
  draw = Recorder()
  prompt = np.array([1, 2, 2, 2, 2], np.int32)
  sampled = source(draw, collapse=False, prompts=[prompt], longest_run=2)
  window = window_of(sampled, Window(0, 10, 20), 0)
  ids = SPECS["semantic"].layout.semantic_to_ids(np.array([1, 2, 2]))
  assert draw.asked[0][0] == [ids.tolist()]
  assert window.tolist() == [1, 2, 2, 2, 2, 6, 6, 6, 6, 6]  # the prompt itself stays as it is


def test_collapsed_repeats_are_drawn_at_the_prompts_rate():
  draw = Recorder()
  window = window_of(source(draw, collapse=True), Window(0, 10, 20), 0)
  assert window.tolist() == [1, 2, 3, 6, 6, 6]  # three different tokens in the prompt's second


def test_a_prompt_of_one_held_sound_is_not_taken_at_its_word():
  draw = Recorder()
  held = source(draw, collapse=True, prompts=[np.full(5, 2, np.int32)])
  window = window_of(held, Window(0, 10, 20), 0)
  assert len(window) == 1 + 2  # half the corpus mean of 4 a second, not the prompt's 1


def test_collapsed_tokens_find_their_place_in_time_where_their_codes_are_tokenized():
  draw = Recorder()
  sampled = source(
    draw, collapse=True, retokenize=lambda codes: np.arange(len(codes) // 2, dtype=np.int32)
  )
  window_of(sampled, Window(0, 10, 20), 0)
  window = window_of(sampled, Window(14, 20, 24), 1)
  assert window[:3].tolist() == [7, 8, 9]  # the steps of frames 14 to 19, as they were tokenized


def test_collapsed_tokens_of_a_second_window_need_a_tokenizer():
  sampled = source(Recorder(), collapse=True)
  window_of(sampled, Window(0, 10, 20), 0)
  with pytest.raises(ConfigError, match="retokenize"):
    window_of(sampled, Window(14, 20, 24), 1)


def test_collapsed_tokens_cannot_be_extended_to_a_time():
  with pytest.raises(ConfigError, match="only a stage that is sampled in windows can read it"):
    source(Recorder(), collapse=True).extend({0: 2.0})
