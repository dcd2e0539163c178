"""The parallel stage: its examples, its model, its masks and its loss."""

import dataclasses
import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
from helpers_parallel import (
  BOOKS,
  CONFIG,
  LATENT,
  LEVELS,
  SIZE,
  SPEC,
  parallel_batch,
  parallel_params,
)

from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.lm.config import TransformerConfig
from audiolm_jax.lm.parallel import (
  UNKNOWN,
  LossTargets,
  MaskingConfig,
  ParallelConfig,
  parallel_stage,
)
from audiolm_jax.lm.parallel_loss import draw_masks, parallel_loss
from audiolm_jax.lm.stages import paper_stages
from tests.conftest import assert_bfloat16_products_hardly_turn, float32_products

PLAIN = dataclasses.replace(CONFIG, heads="plain")


@pytest.fixture(scope="module")
def params():
  return parallel_params()


@functools.partial(jax.jit, static_argnums=(0, 1))
def apply(method, config, params, *inputs):
  return SPEC.model(config).apply({"params": params}, *inputs, method=method)


masks_of = jax.jit(draw_masks, static_argnums=(0, 4))


@functools.partial(jax.jit, static_argnums=0)
def loss_of(config, params, batch, rng):
  return parallel_loss(SPEC, config, params, batch, key=rng)


def logits_of(config, params, codes, semantic, valid):
  found = apply("__call__", config, params, codes, semantic, valid)
  return [np.asarray(x) for x in found]


def test_each_frame_has_the_semantic_token_of_its_time():
  codes = np.arange(7)[:, None].repeat(LEVELS, 1)
  example = SPEC.example({"semantic": np.array([3, 1, 4, 1]), "codes": codes})
  np.testing.assert_array_equal(example["semantic"][:7], [3, 3, 1, 1, 4, 4, 1])
  np.testing.assert_array_equal(example["codes"][:7], codes)
  np.testing.assert_array_equal(example["weights"], [1.0] * 7 + [0.0] * 5)
  same_rate = dataclasses.replace(SPEC, semantic_rate=50.0)
  np.testing.assert_array_equal(same_rate.by_frame(np.array([5, 6, 7]), 3), [5, 6, 7])
  slow = dataclasses.replace(SPEC, semantic_rate=20.0)  # tokens begin at frames 0, 2.5, 5, 7.5
  np.testing.assert_array_equal(slow.by_frame(np.array([1, 2, 3]), 4, start=4), [1, 2, 2, 2])
  with pytest.raises(DataError, match="exceeds the stage's 12"):
    SPEC.example({"semantic": np.zeros(10, int), "codes": np.zeros((13, LEVELS), int)})


@pytest.mark.parametrize("config", [CONFIG, PLAIN], ids=["geometry", "plain"])
def test_padding_does_not_change_the_logits(config):
  params, batch = parallel_params(config), parallel_batch(7)
  codes, semantic = batch["codes"], batch["semantic"]
  valid = batch["weights"] > 0
  codes[:, 3] = UNKNOWN
  alone = logits_of(config, params, codes[:, :7], semantic[:, :7], valid[:, :7])
  for garbage in (0, 5):
    codes[:, 7:], semantic[:, 7:] = garbage, garbage
    for one, other in zip(alone, logits_of(config, params, codes, semantic, valid), strict=True):
      np.testing.assert_allclose(other[:, :7], one, atol=1e-5)


def test_every_frame_depends_on_frames_before_and_after_it(params):
  batch = parallel_batch(12)
  codes, valid = batch["codes"], batch["weights"] > 0
  changed = codes.copy()
  changed[:, 6] = (changed[:, 6] + 1) % SIZE
  before = logits_of(CONFIG, params, codes, batch["semantic"], valid)[0]
  after = logits_of(CONFIG, params, changed, batch["semantic"], valid)[0]
  assert (np.abs(after - before).max(-1) > 1e-4).all()


def test_logits_are_those_of_a_gaussian_around_the_vectors(params):
  """With a head of zeros, the probability of a code falls with its distance to the rest."""
  params = params | {"head": np.zeros_like(params["head"])}
  batch = parallel_batch(12)
  codes = batch["codes"]

  def found_by(method, *inputs):
    return np.asarray(apply(method, CONFIG, params, *inputs))

  hidden = found_by("hidden", codes, batch["semantic"], batch["weights"] > 0)
  vectors = found_by("vectors", codes)
  scale = np.square(BOOKS).mean(1).sum(0).mean() ** 0.5
  np.testing.assert_allclose(vectors[0, 2, 1], BOOKS[1][codes[0, 2, 1]] / scale, rtol=1e-5)
  for level, beta in ((0, 1.0), (2, 1 / 7)):
    point = hidden @ (params["point"] + params["level_point"][level])
    rest = point - vectors[:, :, :level].sum(2)
    distances = np.square(rest[:, :, None] - BOOKS[level] / scale).sum(-1)
    expected = jax.nn.log_softmax(-beta / 2 * distances)
    found = jax.nn.log_softmax(found_by("level_logits", hidden, vectors, codes, level))
    np.testing.assert_allclose(found, expected, atol=2e-5)
  unknown = codes.copy()
  unknown[:, 4, 0] = UNKNOWN
  found = found_by("level_logits", hidden, found_by("vectors", unknown), unknown, 1)
  assert np.all(found[:, 4] == 0) and np.all(found[:, 5] != 0)


def test_the_nearest_codes_are_those_of_the_quantizer(params):
  """The codes of a sum of vectors that are far apart are the codes of these vectors."""
  spread = np.where(np.arange(LATENT) == np.arange(SIZE)[:, None] % LATENT, 1.0, 0.0)
  spread *= 1 + np.arange(SIZE)[:, None] // LATENT
  books = (np.array([100.0, 10.0, 1.0])[:, None, None] * spread).astype(np.float32)
  params = params | {"codebooks": books}
  codes = parallel_batch(12)["codes"]
  vectors = apply("vectors", CONFIG, params, codes)
  found = apply("nearest_codes", CONFIG, params, vectors.sum(-2))
  np.testing.assert_array_equal(found, codes)


def test_masks_hide_neither_prompts_nor_padding_and_finer_levels_whole():
  lengths = np.array([40] * 64 + [25] * 64)
  valid = np.arange(40) < lengths[:, None]
  config = MaskingConfig(one_level_share=1.0, targets=LossTargets.LEVEL, prompt_share=1.0)
  no_pair = np.zeros_like(valid)
  masks = masks_of(config, jax.random.key(1), valid, no_pair, 4)
  hidden, targets = np.asarray(masks.hidden), np.asarray(masks.targets)
  assert not hidden[~valid].any() and (targets <= hidden).all()
  levels, prompts = [], []
  for row, length, seen in zip(hidden, lengths, targets, strict=True):
    if not seen.any():  # no entry of the level was drawn
      continue
    (level,) = np.flatnonzero(seen.any(0))
    first = np.argmax(row.any(1))
    assert row[first:length, level + 1 :].all() and not row[:, :level].any()
    levels.append(level)
    prompts.append(first / length if level < 3 else 0)  # finer levels begin at the prompt's end
  assert len(levels) > 100 and set(levels) == {0, 1, 2, 3}
  assert 0.4 < max(prompts) <= 0.52 and np.unique(prompts).size > 10

  independent = dataclasses.replace(config, one_level_share=0.0, prompt_share=0.0)
  masks = masks_of(independent, jax.random.key(1), valid, no_pair, 4)
  shares = np.asarray(masks.hidden).sum((1, 2)) / (4 * lengths)
  np.testing.assert_allclose(shares.mean(), 2 / np.pi, atol=0.05)
  assert np.asarray(masks.hidden[..., 0] & ~masks.hidden[..., 3]).any()
  np.testing.assert_array_equal(masks.hidden, masks.targets)
  assert 0.02 < np.mean(masks.without_semantic) < 0.25


def test_a_stage_starts_from_one_with_other_crops():
  other = dataclasses.replace(SPEC, crop_seconds=2 * SPEC.crop_seconds, pair_share=0.5)
  assert SPEC.accepts_params_of(other) and other.accepts_params_of(SPEC)
  assert not SPEC.accepts_params_of(dataclasses.replace(other, num_clusters=SPEC.num_clusters + 1))
  assert not SPEC.accepts_params_of(paper_stages()["coarse"])


def test_the_level_ratio_masks_coarser_levels_more_often():
  valid = np.ones((4096, 8), bool)
  config = MaskingConfig(one_level_share=1.0, level_ratio=0.5, prompt_share=0.0)
  masks = masks_of(config, jax.random.key(1), valid, np.zeros_like(valid), 4)
  shares = np.mean(np.asarray(masks.hidden).all(1), axis=0)[1:]  # finer than the chosen one
  expected = np.cumsum([8, 4, 2]) / 15
  # A level is also masked completely where its random share is almost 1.
  assert (shares > expected - 0.03).all() and (shares < expected + 0.12).all()
  np.testing.assert_allclose(config.level_shares(4), np.array([8, 4, 2, 1]) / 15)
  for ratio in (0.0, -1.0, np.inf, np.nan):
    with pytest.raises(ConfigError, match="level_ratio"):
      MaskingConfig(level_ratio=ratio)


def test_the_prompt_of_a_pair_is_what_masks_leave(params):
  window = {"semantic": np.arange(3), "codes": np.tile(np.arange(6)[:, None], LEVELS)}
  one = {"semantic": window["semantic"][:1], "codes": window["codes"][:2]}
  example = SPEC.example_of_pair(one, window)
  np.testing.assert_array_equal(example["is_prompt"], [1] * 2 + [0] * 10)
  np.testing.assert_array_equal(example["codes"][:, 0], [0, 1, *range(6), 0, 0, 0, 0])
  np.testing.assert_array_equal(example["semantic"][:8], [0, 0, 0, 0, 1, 1, 2, 2])
  rows = {name: np.stack([value] * 64) for name, value in example.items()}
  given, valid = rows["is_prompt"] > 0, rows["weights"] > 0
  masking = dataclasses.replace(CONFIG.masking, prompt_share=1.0, longest_prompt=1.0)
  hidden = np.asarray(masks_of(masking, jax.random.key(2), valid, given, LEVELS).hidden)
  assert not hidden[:, :2].any() and hidden[:, 2:8].any((0, 2)).all() and not hidden[:, 8:].any()


def test_the_loss_is_the_cross_entropy_of_hidden_codes_by_level(params):
  batch = parallel_batch(12, 9, 5)
  rng = jax.random.key(4)
  loss, metrics = loss_of(CONFIG, params, batch, rng)
  valid = batch["weights"] > 0
  masks = masks_of(CONFIG.masking, jax.random.split(rng)[0], valid, np.zeros_like(valid), LEVELS)
  semantic = np.where(masks.without_semantic[:, None], UNKNOWN, batch["semantic"])
  shown = np.where(masks.hidden, UNKNOWN, batch["codes"])
  hidden = apply("hidden", CONFIG, params, shown, semantic, valid)
  vectors = apply("vectors", CONFIG, params, batch["codes"])
  means = []
  for level in range(LEVELS):
    logits = apply("level_logits", CONFIG, params, hidden, vectors, batch["codes"], level)
    nats = -jax.nn.log_softmax(logits)
    nats = np.take_along_axis(np.asarray(nats), batch["codes"][..., level, None], -1)[..., 0]
    means.append(nats[np.asarray(masks.hidden[..., level])].mean())
    np.testing.assert_allclose(metrics[f"loss_quantizer_{level}"], means[-1], rtol=1e-5)
  np.testing.assert_allclose(metrics["loss"], np.mean(means), rtol=1e-5)
  assert metrics["weight"] == np.sum(masks.hidden)
  np.testing.assert_allclose(loss, metrics["loss"] + 0.5 * metrics["point_error"], rtol=1e-5)
  weighted = dataclasses.replace(CONFIG, level_weights=(2.0,))
  _, metrics = loss_of(weighted, params, batch, rng)
  np.testing.assert_allclose(metrics["loss"], np.average(means, weights=[2, 1, 1]), rtol=1e-5)


def test_rows_without_weight_have_no_targets_and_finite_gradients(params):
  batch = parallel_batch(12)
  empty = SPEC.filler({name: value[0] for name, value in batch.items()})
  empty = {name: value[None] for name, value in empty.items()}
  gradient = jax.jit(jax.grad(lambda p, b: parallel_loss(SPEC, CONFIG, p, b)[0]))(params, empty)
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient))
  _, metrics = loss_of(CONFIG, params, empty, jax.random.key(0))
  assert metrics["weight"] == 0 and np.isnan(metrics["loss_quantizer_0"])


def test_products_of_training_are_rounded_and_codebooks_have_no_gradient(params):
  batch = parallel_batch(12, 12)
  rng = jax.random.key(0)

  def gradients(params, batch):
    return jax.grad(lambda p: parallel_loss(SPEC, CONFIG, p, batch, key=rng)[0])(params)

  compiled = jax.jit(gradients)
  assert_bfloat16_products_hardly_turn(compiled, params, batch, cosine=0.99)
  assert not float32_products(gradients, params, batch)
  assert not np.any(compiled(params, batch)["codebooks"])


def test_the_base_model_has_the_stated_number_of_parameters():
  spec = parallel_stage()
  config = ParallelConfig()
  stacked = dataclasses.replace(config.transformer, scan_layers=True)
  config = dataclasses.replace(config, transformer=stacked)
  batch = {"codes": np.zeros((1, 8, 12))}
  shapes = jax.eval_shape(lambda: spec.init(config, jax.random.key(0), batch))
  count = sum(x.size for x in jax.tree.leaves(nn.meta.unbox(shapes)))
  assert count - 12 * 1024 * 64 == 354_514_956  # without the codebooks


def test_configurations_that_do_not_fit_are_refused():
  with pytest.raises(ConfigError, match="rotary"):
    ParallelConfig(TransformerConfig())
  with pytest.raises(ConfigError, match="passes has 4 numbers for 3 levels"):
    SPEC.check_config(
      dataclasses.replace(CONFIG, filling=dataclasses.replace(CONFIG.filling, passes=(4, 1, 1, 1)))
    )
  with pytest.raises(ConfigError, match="codebooks of shape"):
    SPEC.codebooks(CONFIG, BOOKS[:2])
