"""Marked codes of both kinds of stages: green, and the same in batches, windows and streams."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers_lm import CONFIG, SPECS, random_params
from helpers_parallel import CONFIG as PARALLEL_CONFIG
from helpers_parallel import SPEC as PARALLEL
from helpers_parallel import parallel_params

from audiolm_jax.core.errors import UserError
from audiolm_jax.detection.watermark import (
  Watermark,
  WatermarkConfig,
  WatermarkKind,
  is_green,
  scores_of,
)
from audiolm_jax.lm.stage import Stage
from audiolm_jax.sampling import loop, parallel_decoder
from audiolm_jax.sampling import watermark as sampling_watermark
from audiolm_jax.sampling.cascade import Cascade, CascadeOptions, Clip
from audiolm_jax.sampling.logits import SamplingOptions, controlled
from audiolm_jax.sampling.processors import Context, draw_processed
from audiolm_jax.sampling.watermark import mark_of

KEY = "000102030405060708090a0b0c0d0e0f"
LEVELS = 2  # marked ones, of 2 and of 3


def watermark(size, **context):
  communities = np.random.default_rng(8).permutation(np.arange(LEVELS * size) % 6)
  config = WatermarkConfig(LEVELS, size, KEY, **context)
  return Watermark(config, communities.reshape(LEVELS, size))


KINDS = {
  "autoregressive": (watermark(9, frames=1, coarser=1), ("coarse",)),
  "parallel": (watermark(16, frames=0, coarser=2), ("parallel",)),
  "autoregressive, position": (watermark(9, frames=0, period=5), ("coarse",)),
  "parallel, position": (watermark(16, frames=0, period=5), ("parallel",)),
}
GUMBEL = watermark(12, strength=1.0, frames=2, coarser=1, kind=WatermarkKind.GUMBEL)
ALL_KINDS = KINDS | {
  "gumbel": (watermark(9, strength=1.0, frames=1, kind=WatermarkKind.GUMBEL), ("coarse",)),
}


@pytest.fixture(scope="module")
def cascades():
  spec = dataclasses.replace(SPECS["coarse"], collapse_repeats=False)
  coarse = Stage(spec, CONFIG, random_params(CONFIG, spec))
  parallel = Stage(PARALLEL, PARALLEL_CONFIG, parallel_params())
  return {("coarse",): Cascade({"coarse": coarse}), ("parallel",): Cascade({"parallel": parallel})}


def clip(total, frames, seed):
  rng = np.random.default_rng(seed)
  codes = rng.integers(0, 9, (frames, 5)).astype(np.int32)
  return Clip(total, {"codes": codes}, {"semantic": rng.integers(0, 8, -(-total // 2))})


CLIPS = [clip(33, 7, 1), clip(26, 0, 2)]


def options(kind, strength, key=None, payload=b""):
  mark, names = ALL_KINDS[kind]
  if kind == "gumbel":
    strength, payload = 1.0, b""
  processor = mark_of(mark, mark.key if key is None else key, strength, payload)
  chosen = SamplingOptions(processors=(processor,))
  return CascadeOptions(dict.fromkeys(names, chosen), overlap_seconds=0.12)


def green_share(mark, codes, known, key, payload=b""):
  """The share of green codes among the new ones of which a green one can be sampled."""
  found, possible = [], []
  first = mark.config.frames
  for code in range(mark.config.codebook_size):
    for level in range(LEVELS):
      changed = codes.copy()
      changed[:, level] = code
      # The context stays that of the codes; only the code itself is another one.
      rows = [
        mark.entries(np.concatenate([codes[t - first : t], changed[t : t + 1]]), t)[0, level]
        for t in range(max(first, known), len(codes))
      ]
      possible.append(is_green(key[None], np.array(rows), payload)[0])
  possible = np.array(possible).reshape(-1, LEVELS, len(codes) - max(first, known)).any(axis=0)
  found = is_green(key[None], mark.entries(codes)[max(0, known - first) :].ravel(), payload)[0]
  return found.reshape(-1, LEVELS)[possible.T].mean()


@pytest.mark.parametrize("payload", [b"", b"\xa5", b"\xa5\0\x3c\xff"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_strong_mark_samples_green_codes_as_numpy_finds_them(cascades, kind, payload):
  mark, names = KINDS[kind]
  key = np.arange(4, dtype=np.uint32)
  made = cascades[names].sample(CLIPS, seed=3, options=options(kind, 1e4, key, payload)).codes
  for given, codes in zip(CLIPS, made, strict=True):
    known = len(given.prompt["codes"])
    assert green_share(mark, codes, known, key, payload) == 1.0
    assert green_share(mark, codes, known, mark.key, payload) < 0.8
    assert green_share(mark, codes, known, key, b"\x5a") < 0.8


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_mark_is_the_same_batched_alone_and_streamed(cascades, kind):
  cascade = cascades[ALL_KINDS[kind][1]]
  cascade.sample(CLIPS, options=options(kind, 1.0, np.full(4, 7, np.uint32)))
  programs = loop.decode._cache_size(), parallel_decoder.choose._cache_size()
  marked = options(kind, 2.0, payload=b"\xa5")
  together = cascade.sample(CLIPS, seed=3, options=marked).codes
  # None of key, strength and payload is part of a program.
  assert (loop.decode._cache_size(), parallel_decoder.choose._cache_size()) == programs
  plain = cascade.sample(CLIPS, seed=3, options=CascadeOptions(overlap_seconds=0.12)).codes
  for given, codes, without in zip(CLIPS, together, plain, strict=True):
    (alone,) = cascade.sample([given], seed=3, options=marked).codes
    np.testing.assert_array_equal(alone, codes)
    pieces = [*cascade.stream(given, seed=3, options=marked)]
    np.testing.assert_array_equal(np.concatenate(pieces), codes)
    assert (codes[:, :LEVELS] != without[:, :LEVELS]).any()


def test_a_parallel_stage_refuses_earlier_frames_and_points(cascades):
  cascade, (mark, _) = cascades["parallel",], KINDS["parallel"]
  processor = mark_of(mark, mark.key, 1.0)
  for chosen, words in (
    (SamplingOptions(processors=(dataclasses.replace(processor, frames=1),)), "no order of frames"),
    (SamplingOptions(processors=(processor,), passes=()), "or the watermark to off"),
  ):
    with pytest.raises(UserError, match=words):
      cascade.sample(CLIPS[:1], options=CascadeOptions({"parallel": chosen}))


def drawn(codes, level, keys, random_keys, logits, options=SamplingOptions()):  # noqa: B008
  """Codes that are drawn with each key of the mark and each random key after the same codes."""
  processor = mark_of(GUMBEL, GUMBEL.key, 1.0)
  shown = np.full((1, processor.history + 1, LEVELS), -1, np.int32)
  codes = codes[-shown.shape[1] :]
  shown[0, -len(codes) :] = codes
  context = Context(np.zeros(1, np.int32), level, jnp.asarray(shown))

  def draw(key, random_key):
    arrays = (processor.arrays()[0], key)
    row = random_key[None]
    return draw_processed((processor,), (arrays,), logits, context, row, options.controls)[0]

  each = jax.vmap(draw, (0, None)) if keys.ndim == 2 else jax.vmap(draw, (None, 0))
  return np.asarray(jax.jit(each)(keys, random_keys))


def test_the_distribution_of_a_code_averaged_over_keys_is_that_without_a_mark():
  codes = np.array([[3, 1], [4, 1], [5, -1]])
  logits = jnp.asarray(np.random.default_rng(1).normal(0, 1.5, (1, 12)), jnp.float32)
  options = SamplingOptions(temperature=0.8, top_k=9, top_p=0.9)
  keys = np.random.default_rng(2).integers(0, 2**32, (40_000, 4), dtype=np.uint32)
  expected = np.asarray(jax.nn.softmax(controlled(logits, options.controls)))[0]
  # With one key of the sampler, the key of the mark alone chooses the community.
  found = drawn(codes, 0, keys, jax.random.key(0), logits, options)
  own = GUMBEL.communities[0]
  shares = np.bincount(own[found], minlength=6) / len(keys)
  assert np.abs(shares - np.bincount(own, expected, 6)).sum() / 2 < 0.01
  found = drawn(codes, 0, keys[0], jax.random.split(jax.random.key(1), 40_000), logits, options)
  (community,) = set(own[found])
  inside = np.where(own == community, expected, 0)
  shares = np.bincount(found, minlength=12) / len(found)
  assert np.abs(shares - inside / inside.sum()).sum() / 2 < 0.01


@pytest.mark.parametrize("level", range(LEVELS))
def test_the_sampler_has_the_noise_that_the_detector_scores(level):
  rng, own = np.random.default_rng(3), GUMBEL.communities[level]
  keys = rng.integers(0, 2**32, (20, 4), dtype=np.uint32)
  codes = rng.integers(0, 12, (3, LEVELS))
  trials = []
  for code in range(12):
    codes[-1, level] = code
    trials.append(GUMBEL.entries(codes)[0, level])
  scores = scores_of(keys, np.array(trials))[0]
  logits = -np.log(np.bincount(own)[own])[None].astype(np.float32)  # of equal communities
  found = drawn(codes, level, keys, jax.random.key(0), logits)
  np.testing.assert_array_equal(own[found], own[scores.argmax(axis=1)])


def test_a_context_is_not_marked_again_for_a_while_and_never_if_unknown(monkeypatch):
  monkeypatch.setattr(sampling_watermark, "FRESH_FRAMES", 4)
  random_keys = jax.random.split(jax.random.key(0), 50)
  codes = np.random.default_rng(4).permutation(12)[:8, None].repeat(LEVELS, axis=1)
  logits = np.zeros((1, 12), np.float32)

  def communities(codes):
    found = drawn(codes, 0, GUMBEL.key, random_keys, logits)
    return len(set(GUMBEL.communities[0][found]))

  own = GUMBEL.communities[0][codes[:, 0]]
  codes = codes[np.sort(np.unique(own, return_index=True)[1])]  # of different communities
  first, second, third, fourth, fifth = codes[:5]
  assert communities(np.stack([first, second, third])) == 1
  again = [first, second, third, fourth, first, second, third]
  assert communities(np.stack(again)) > 3
  assert communities(np.stack([first, second, third, fourth, fifth, first, second, third])) == 1
  assert communities(np.stack([-np.ones_like(first), second, third])) > 3
