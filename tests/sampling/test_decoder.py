"""Cached decoding against teacher forcing, and the independence of a row from its company."""

import dataclasses
import itertools
import re
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers_lm import CONFIG, SPECS, random_clip, random_params

from audiolm_jax.lm.config import Positions, TransformerConfig
from audiolm_jax.lm.stage import Stage
from audiolm_jax.lm.stages import AutoregressiveSpec, stage_sequence
from audiolm_jax.lm.tokens import BOS
from audiolm_jax.lm.transformer import Transformer, stack_layers
from audiolm_jax.sampling import decoder, loop
from audiolm_jax.sampling.decoder import Prompt, StageSampler
from audiolm_jax.sampling.logits import SamplingOptions, draw

VARIANTS = {
  "t5": {},
  "rotary": {"positions": Positions.ROTARY},
  "grouped": {"num_kv_heads": 1},
  "frames": {"num_frame_embeddings": 50},
}


def stage(name: str, variant: str = "t5") -> Stage:
  config = dataclasses.replace(CONFIG, **VARIANTS[variant])
  return Stage(SPECS[name], config, random_params(config, SPECS[name]))


def prompt(spec, seconds: float, seed: int = 0) -> Prompt:
  """A source of the whole crop, or of the same `seconds`, and `seconds` of targets."""
  semantic, codes = random_clip(spec, seconds, seed)
  if spec.predicts_semantic:
    tokens = stage_sequence(spec, semantic).tokens
    return Prompt(tokens, np.zeros_like(tokens), earlier=semantic[:, None])
  sequence = stage_sequence(spec, semantic, codes)
  return Prompt(sequence.tokens, sequence.frame_ids, 1 + len(codes))


def keys(rows: int):
  return jax.random.split(jax.random.key(7), rows)


def teacher_forced(stage: Stage, prompt: Prompt, drawn) -> np.ndarray:
  """Logits over the legal ids at each drawn token, from one pass over the whole sequence."""
  spec = cast(AutoregressiveSpec, stage.spec)
  drawn_ids = np.asarray(drawn)
  frames = np.zeros(len(drawn_ids), np.int32)
  if spec.num_target_quantizers:
    frames = prompt.first_frame + np.arange(len(drawn_ids)) // spec.num_target_quantizers
  tokens = np.concatenate([[BOS], prompt.tokens, drawn_ids[:-1]])
  frame_ids = np.concatenate([prompt.frame_ids, frames])
  model = Transformer(stage.config, spec.layout.vocab_size)
  logits = jax.jit(model.apply)({"params": stage.params}, tokens[None], frame_ids[None])[0]
  legal = []
  for step in range(len(drawn_ids)):
    start, size = spec.layout.legal_range(
      step,
      spec.first_target_quantizer,
      spec.num_target_quantizers,
    )
    legal.append(np.asarray(logits[len(prompt.tokens) + step, start : start + size]))
  return np.stack(legal)


@pytest.fixture
def seen_logits(monkeypatch):
  """The logits that the decoder draws from, in order, [steps][rows, size]."""
  seen = []
  original = loop._choose

  def spy(program, params, inputs, hidden, codes, step):
    spec = program.spec
    start, size = spec.layout.legal_range(
      step, spec.first_target_quantizer, spec.num_target_quantizers
    )
    logits = program.model.apply({"params": params}, hidden, start, size, method="range_logits")
    jax.debug.callback(
      lambda s, x: seen.append((int(s), np.asarray(x))), step, logits, ordered=True
    )
    return original(program, params, inputs, hidden, codes, step)

  monkeypatch.setattr(loop, "_choose", spy)
  # A fresh jit, so that the spy is not hidden by what was compiled before, nor kept after.
  monkeypatch.setattr(decoder, "decode", jax.jit(lambda *a: loop._decode_fn(*a), static_argnums=0))
  return seen


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", SPECS)
def test_cached_logits_equal_teacher_forced_logits(name, variant, seen_logits):
  model = stage(name, variant)
  # Unequal lengths: the shorter prompt is padded on the left. 70 tokens: more than a segment.
  prompts = [prompt(model.spec, 0.6, seed=1), prompt(model.spec, 1.0, seed=2)]
  assert len(prompts[0].tokens) < len(prompts[1].tokens)
  drawn = StageSampler(model).sample(prompts, 70, keys(2))
  jax.effects_barrier()
  assert [step for step, _ in seen_logits] == list(range(70))
  for row, (given, ids) in enumerate(zip(prompts, drawn, strict=True)):
    expected = teacher_forced(model, given, ids)
    actual = np.stack([logits[row] for _, logits in seen_logits])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual / scale, expected / scale, atol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_drawn_ids_are_legal(name):
  model = stage(name)
  drawn = StageSampler(model).sample(
    [prompt(model.spec, 0.4, seed=s) for s in range(3)], 40, keys(3)
  )
  spec = cast(AutoregressiveSpec, model.spec)
  for step, ids in enumerate(drawn.T):
    start, size = spec.layout.legal_range(
      step,
      spec.first_target_quantizer,
      spec.num_target_quantizers,
    )
    assert ((ids >= start) & (ids < start + size)).all()


@pytest.mark.parametrize("name", SPECS)
def test_a_seed_draws_what_a_plain_loop_over_the_whole_sequence_draws(name):
  """Draws each token from one pass over all previous tokens, without cache and compiled loop."""
  model, count = stage(name), 10
  spec = cast(AutoregressiveSpec, model.spec)
  given, options = prompt(model.spec, 0.4), SamplingOptions(temperature=0.9, top_k=5)
  key, tokens = keys(1)[0], []
  for step in range(count):
    logits = teacher_forced(model, given, [*tokens, 0])[step]
    start, size = spec.layout.legal_range(
      step, spec.first_target_quantizer, spec.num_target_quantizers
    )
    newest = tokens[-1] if tokens else given.tokens[-1]
    if spec.run_limit and spec.predicts_semantic:
      logits[newest - start] = -np.inf  # repeats are collapsed
    drawn = draw(logits[None], jax.random.fold_in(key, step)[None], options.controls)
    tokens.append(start + int(drawn[0]))
    assert start <= tokens[-1] < start + size
  sampled = StageSampler(model).sample([given], count, keys(1), options)
  np.testing.assert_array_equal(sampled[0], tokens)


def test_collapsed_semantic_tokens_never_repeat():
  model = stage("semantic")
  given = prompt(model.spec, 1.0)
  drawn = StageSampler(model).sample([given] * 2, 60, keys(2), SamplingOptions(temperature=9.0))
  rows = np.concatenate([np.tile(given.tokens[-1:], (2, 1)), drawn], axis=1)
  assert (rows[:, 1:] != rows[:, :-1]).all()


def test_no_run_of_a_token_is_longer_than_the_limit():
  model = stage("semantic")
  spec = dataclasses.replace(
    cast(AutoregressiveSpec, model.spec), collapse_repeats=False, longest_run=3
  )
  model = dataclasses.replace(model, spec=spec)
  ends = np.array([5, 9, 9], np.int32), np.array([5, 9, 9, 9], np.int32)
  given = [
    Prompt(tokens, np.zeros_like(tokens), earlier=spec.layout.ids_to_semantic(tokens)[:, None])
    for tokens in ends
  ]
  greedy = StageSampler(model).sample(given, 60, keys(2), SamplingOptions(temperature=0.0))
  rows = [np.concatenate(parts).tolist() for parts in zip(ends, greedy, strict=True)]
  runs = [max(len(list(run)) for _, run in itertools.groupby(row)) for row in rows]
  assert runs == [3, 3]


@pytest.mark.parametrize("variant", ["t5", "rotary", "frames"])
@pytest.mark.parametrize("name", SPECS)
def test_a_batch_draws_what_its_rows_draw_alone(name, variant):
  model = stage(name, variant)
  sampler = StageSampler(model)
  prompts = [prompt(model.spec, s, seed=i) for i, s in enumerate([0.2, 1.0, 0.6])]
  together = sampler.sample(prompts, 30, keys(3))
  for row, given in enumerate(prompts):
    alone = sampler.sample([given], 30, keys(3)[row : row + 1])
    np.testing.assert_array_equal(alone[0], together[row])
  assert len({tuple(row) for row in together.tolist()}) == 3


def test_samples_of_one_prompt_read_it_once_and_draw_what_they_draw_alone(monkeypatch):
  read = []
  original = decoder.prefill
  monkeypatch.setattr(decoder, "prefill", lambda *a: read.append(a[2].shape[0]) or original(*a))
  model = stage("coarse")
  sampler = StageSampler(model)
  one, other = prompt(model.spec, 1.0), prompt(model.spec, 0.6, seed=1)
  rows = [one, one, other, one, other]
  together = sampler.sample(rows, 30, keys(5))
  assert read == [2]
  for row, given in enumerate(rows):
    alone = sampler.sample([given], 30, keys(5)[row : row + 1])
    np.testing.assert_array_equal(alone[0], together[row])
  assert len({tuple(row) for row in together.tolist()}) == 5


def test_rows_in_turns_draw_what_they_draw_together():
  model = stage("coarse")
  prompts = [prompt(model.spec, s, seed=i) for i, s in enumerate([0.2, 1.0, 0.6])]
  together = StageSampler(model).sample(prompts, 20, keys(3))
  in_turns = StageSampler(model, cache_bytes=1).sample(prompts, 20, keys(3))
  np.testing.assert_array_equal(together, in_turns)


def test_neither_length_nor_progress_nor_bucket_changes_the_first_tokens():
  model = stage("coarse")
  given = [prompt(model.spec, 0.4)]
  calls = []
  long = StageSampler(model).sample(
    given, 300, keys(1), progress=lambda done, total: calls.append((done, total))
  )
  assert calls == [(done, 300) for done in (0, 64, 128, 192, 256, 300)]
  for count in (1, 20, 64, 65):
    np.testing.assert_array_equal(
      StageSampler(model).sample(given, count, keys(1)), long[:, :count]
    )


def test_an_empty_prompt_starts_from_the_begin_token(seen_logits):
  model = stage("semantic")
  nothing = Prompt(np.zeros(0, np.int32), np.zeros(0, np.int32))
  drawn = StageSampler(model).sample([nothing], 5, keys(1))
  jax.effects_barrier()
  actual = np.stack([logits[0] for _, logits in seen_logits])
  np.testing.assert_allclose(actual, teacher_forced(model, nothing, drawn[0]), atol=1e-4)


def test_greedy_draws_are_the_likeliest_legal_ids():
  model = stage("coarse")
  given = prompt(model.spec, 0.4)
  drawn = StageSampler(model).sample([given], 12, keys(1), SamplingOptions(temperature=0.0))[0]
  best = teacher_forced(model, given, drawn).argmax(-1)
  np.testing.assert_array_equal(best, (drawn - 15) - 9 * (np.arange(12) % 2))


def test_forced_ids_replace_draws_and_are_read():
  model = stage("fine")
  given = prompt(model.spec, 0.2)
  sampler = StageSampler(model)
  free = sampler.sample([given], 24, keys(1))[0]
  layout = cast(AutoregressiveSpec, model.spec).layout
  other = layout.unflatten_ids(free[:6], 3, 2)
  forced = layout.flatten_codes((other + 1) % 9, 2)
  drawn = sampler.sample([given._replace(forced=forced)], 24, keys(1))[0]
  np.testing.assert_array_equal(drawn[:6], forced)
  longer = Prompt(
    np.concatenate([given.tokens, forced]),
    np.concatenate([given.frame_ids, given.first_frame + np.arange(6) // 3]),
    given.first_frame + 2,
  )
  logits = teacher_forced(model, longer, drawn[6:])
  greedy = sampler.sample(
    [given._replace(forced=forced)], 24, keys(1), SamplingOptions(temperature=0.0)
  )[0]
  assert greedy[6] - 22 == logits[0].argmax()


@pytest.mark.parametrize("options", [SamplingOptions(top_k=1), SamplingOptions(top_p=1e-6)])
def test_top_k_and_top_p_of_one_are_greedy(options):
  model = stage("coarse")
  given = [prompt(model.spec, 0.4)]
  greedy = StageSampler(model).sample(given, 10, keys(1), SamplingOptions(temperature=0.0))
  np.testing.assert_array_equal(StageSampler(model).sample(given, 10, keys(1), options), greedy)


def test_stacked_parameters_sample_alike():
  model = stage("coarse")
  stacked = Stage(
    model.spec,
    dataclasses.replace(model.config, scan_layers=True, remat="full", dropout_rate=0.5),
    stack_layers(model.params),
  )
  given = [prompt(model.spec, 0.4)]
  np.testing.assert_array_equal(
    StageSampler(stacked).sample(given, 10, keys(1)), StageSampler(model).sample(given, 10, keys(1))
  )


def test_nothing_is_recompiled_within_a_bucket():
  model = stage("coarse")
  sampler = StageSampler(model)
  sampler.sample([prompt(model.spec, 0.9)], 30, keys(1), SamplingOptions(temperature=0.3))
  before = loop.prefill._cache_size(), loop.decode._cache_size()
  for seconds, count, temperature in [(0.2, 3, 0.7), (0.5, 17, 1.0), (0.8, 40, 0.0)]:
    options = SamplingOptions(temperature=temperature)
    sampler.sample([prompt(model.spec, seconds)], count, keys(1), options)
  assert (loop.prefill._cache_size(), loop.decode._cache_size()) == before


def test_the_compiled_loop_keeps_its_cache_in_place():
  spec = SPECS["coarse"]
  config = TransformerConfig(num_layers=2, dim=64, num_heads=2, mlp_dim=64)
  sampler = StageSampler(Stage(spec, config, random_params(config, spec)))
  capacity = 4096
  given = [prompt(spec, 0.4)]
  inputs, state = sampler._begin(given, 64, keys(1), SamplingOptions(), capacity)
  compiled = loop.decode.lower(sampler.program, sampler.params, inputs, state, 64).compile()
  cache_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state.cache))
  assert cache_bytes == 2 * 2 * 64 * 4 * capacity
  memory = compiled.memory_analysis()
  assert memory.alias_size_in_bytes >= cache_bytes
  assert memory.temp_size_in_bytes < 0.25 * cache_bytes
  shape = re.escape(f"f32[1,2,{capacity},32]")
  assert not re.search(rf"= {shape}\S* (copy|transpose)\(", compiled.as_text())


def test_bfloat16_on_request():
  model = stage("coarse")
  sampler = StageSampler(model, dtype="bfloat16")
  assert sampler.params["head"].dtype == jnp.bfloat16
  assert sampler.params["relative_bias"]["table"].dtype == jnp.float32
  drawn = sampler.sample([prompt(model.spec, 0.4)], 10, keys(1))
  assert drawn.shape == (1, 10)
