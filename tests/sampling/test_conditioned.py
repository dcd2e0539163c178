"""Sampling of the conditioned stage: caches, ends, batches and pieces."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from helpers_conditioned import CLUSTERS, CONFIG, SPEC, conditioned_params

from audiolm_jax.core.errors import ConfigError, DataError, UserError
from audiolm_jax.lm import text
from audiolm_jax.lm.stage import Stage
from audiolm_jax.lm.tokens import BOS
from audiolm_jax.sampling import conditioned_decoder
from audiolm_jax.sampling.cascade import Cascade, CascadeOptions, Clip
from audiolm_jax.sampling.conditioned_decoder import ConditionedDecoder
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.sampling.processors import RunLimit

TEXTS = ("on", "it is five o'clock", "yes, now.", "stop")
GREEDY = CascadeOptions({"text": SamplingOptions(0.0)})


@pytest.fixture(scope="module")
def stage():
  return Stage(SPEC, CONFIG, conditioned_params())


@pytest.fixture(scope="module")
def deep():
  """A stage of several decoder layers, each with its caches."""
  layers = dataclasses.replace(CONFIG.transformer, num_layers=2)
  config = dataclasses.replace(CONFIG, transformer=layers)
  return Stage(SPEC, config, conditioned_params(config))


@pytest.fixture(scope="module")
def cascade(stage):
  return Cascade({"text": stage})


def clips(*texts):
  return [Clip(None, given={"source.text": text.code_points(words)}) for words in texts]


@functools.partial(jax.jit, static_argnums=0)
def logits_of(config, params, source, tokens):
  return SPEC.model(config).apply({"params": params}, source, tokens)


def teacher_forced(stage, words, semantic):
  """The logits at each step of a row, the last one that of the end token."""
  source = np.zeros((1, SPEC.source_length), np.int32)
  ids = SPEC.source_ids(text.code_points(words))
  source[0, : len(ids)] = ids
  tokens = np.zeros((1, SPEC.max_steps + 1), np.int32)
  tokens[0, : len(semantic) + 1] = [BOS, *(semantic + 4)]
  logits = logits_of(stage.config, stage.params, source, tokens)
  return np.asarray(logits, np.float64)[0, : len(semantic) + 1]


def test_cached_greedy_tokens_and_scores_are_those_of_teacher_forcing(deep):
  made = Cascade({"text": deep}).sample(clips(*TEXTS), options=GREEDY)
  assert len({row.tobytes() for row in made.semantic}) == 4
  for words, semantic, score in zip(TEXTS, made.semantic, made.scores["text"], strict=True):
    logits = teacher_forced(deep, words, semantic)
    logits[0, -1] = -np.inf  # a clip has at least one token
    classes = [*semantic, CLUSTERS] if len(semantic) < SPEC.max_steps else [*semantic]
    logits = logits[: len(classes)]
    assert logits.argmax(-1).tolist() == classes
    logs = logits.max(-1) - np.log(np.exp(logits).sum(-1))
    np.testing.assert_allclose(score, logs.mean(), atol=1e-4)


def test_rows_do_not_depend_on_each_other(cascade):
  texts = TEXTS[:2]  # of different lengths
  together = cascade.sample(clips(*texts), seed=4, num_samples=2)
  lengths = [len(row) for row in together.semantic]
  assert 0 < min(lengths) <= max(lengths) < 100
  for index, words in enumerate(texts):
    for sample in range(2):
      clip = clips(words)[0]._replace(first_sample=sample)
      alone, row = cascade.sample([clip], seed=4), 2 * index + sample
      np.testing.assert_array_equal(alone.semantic[0], together.semantic[row])
      np.testing.assert_allclose(alone.scores["text"][0], together.scores["text"][row], atol=1e-4)
  assert len({row.tobytes() for row in together.semantic}) == 4


def test_turns_of_a_small_memory_draw_the_same(stage, cascade, monkeypatch):
  whole = cascade.sample(clips(*TEXTS), seed=1)
  monkeypatch.setattr(ConditionedDecoder, "rows_per_drawing", lambda *_: 1)
  turns = Cascade({"text": stage}).sample(clips(*TEXTS), seed=1)
  for a, b in zip(turns.semantic, whole.semantic, strict=True):
    np.testing.assert_array_equal(a, b)
  np.testing.assert_allclose(turns.scores["text"], whole.scores["text"], atol=1e-4)


def test_the_number_of_rows_in_memory_is_limited(stage):
  per_row = (128 + SPEC.source_length) * CONFIG.transformer.cache_bytes_per_token
  assert ConditionedDecoder(stage, cache_bytes=3 * per_row).rows_per_drawing(100) == 3
  assert ConditionedDecoder(stage, cache_bytes=1).rows_per_drawing(100) == 1


def test_a_stream_has_the_tokens_of_a_sample_in_pieces():
  # With these parameters and this seed the clip has the longest length.
  cascade = Cascade({"text": Stage(SPEC, CONFIG, conditioned_params(seed=1))})
  (clip,) = clips(TEXTS[1])
  whole, reports = cascade.sample([clip], seed=5), []
  pieces = [*cascade.stream(clip, seed=5, progress=lambda *report: reports.append(report))]
  np.testing.assert_array_equal(np.concatenate(pieces), whole.semantic[0])
  assert [len(piece) for piece in pieces] == [64, 36] and reports[-1] == ("text", 100, 100)


def test_a_length_ends_a_row_before_its_end_token_without_a_change():
  cascade = Cascade({"text": Stage(SPEC, CONFIG, conditioned_params(seed=1))})
  clip = clips(TEXTS[1])[0]
  whole = cascade.sample([clip], seed=5).semantic[0]
  short = cascade.sample([clip._replace(num_frames=70)], seed=5).semantic[0]
  np.testing.assert_array_equal(short, whole[:70])
  assert len(short) == 70 < len(whole)


def test_a_prompt_is_a_prefix_and_counts_in_no_score(deep):
  cascade = Cascade({"text": deep})
  prompt = np.array([3, 3, 8, 1], np.int32)
  (clip,) = clips(TEXTS[1])
  clip = clip._replace(prompt={"semantic": prompt})
  made = cascade.sample([clip], options=GREEDY)
  (semantic,) = made.semantic
  np.testing.assert_array_equal(semantic[:4], prompt)
  logits = teacher_forced(deep, TEXTS[1], semantic)
  classes = [*semantic, CLUSTERS][: SPEC.max_steps]
  logits = logits[: len(classes)]
  assert logits[4:].argmax(-1).tolist() == classes[4:]
  logs = (logits.max(-1) - np.log(np.exp(logits).sum(-1)))[4:]
  np.testing.assert_allclose(made.scores["text"][0], logs.mean(), atol=1e-4)
  with pytest.raises(DataError, match="a prompt of 100 semantic tokens leaves no room"):
    cascade.sample([clip._replace(prompt={"semantic": np.zeros(100)})])


def test_processors_receive_the_earlier_tokens():
  cascade = Cascade({"text": Stage(SPEC, CONFIG, conditioned_params(seed=2))})
  options = CascadeOptions({"text": SamplingOptions(0.0, processors=(RunLimit(2),))})
  longest = []
  for chosen in (GREEDY, options):
    runs = [
      max(len(run) for run in np.split(row, np.flatnonzero(np.diff(row)) + 1))
      for row in cascade.sample(clips(TEXTS[1]), options=chosen).semantic
    ]
    longest.append(max(runs))
  assert longest[0] > 2 and longest[1] == 2


def test_a_semantic_source_is_given_as_tokens():
  spec = dataclasses.replace(SPEC, source="semantic")
  cascade = Cascade({"text": Stage(spec, CONFIG, conditioned_params(seed=1))})
  assert cascade.missing() == {"source.semantic"}
  made = [
    cascade.sample([Clip(60, given={"source.semantic": np.full(3, token)})]).semantic[0]
    for token in (2, 9)
  ]
  # The source has another length.
  assert made[0].tobytes() != made[1].tobytes() and max(map(len, made)) > 3


def test_requests_that_cannot_work_are_refused(stage, cascade):
  with pytest.raises(UserError, match="no passes, guidance or lookahead"):
    cascade.sample(clips("on"), options=CascadeOptions({"text": SamplingOptions(guidance=2.0)}))
  with pytest.raises(DataError, match="the text is empty"):
    cascade.sample(clips(" "))
  pretrained = dataclasses.replace(SPEC, source="nothing")
  with pytest.raises(ConfigError, match="pretrained without a source"):
    Cascade({"text": Stage(pretrained, CONFIG, stage.params)}).sample([Clip(5)])
  assert cascade.rehearsal() is None


def test_a_bfloat16_stage_is_decoded_in_float32_on_a_cpu(stage):
  layers = dataclasses.replace(CONFIG.transformer, dtype="bfloat16")
  other = Stage(SPEC, dataclasses.replace(CONFIG, transformer=layers), stage.params)
  assert ConditionedDecoder(other).config == ConditionedDecoder(stage).config
  assert conditioned_decoder.SEGMENT == 64
