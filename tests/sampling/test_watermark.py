"""Marked codes of both kinds of stages: green, and the same in batches, windows and streams."""

import dataclasses

import numpy as np
import pytest
from helpers_lm import CONFIG, SPECS, random_params
from helpers_parallel import CONFIG as PARALLEL_CONFIG
from helpers_parallel import SPEC as PARALLEL
from helpers_parallel import parallel_params

from audiolm_jax.core.errors import UserError
from audiolm_jax.detection.watermark import Watermark, WatermarkConfig, is_green
from audiolm_jax.lm.stage import Stage
from audiolm_jax.sampling import loop, parallel_decoder
from audiolm_jax.sampling.cascade import Cascade, CascadeOptions, Clip
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.sampling.watermark import green_list_of

KEY = "000102030405060708090a0b0c0d0e0f"
LEVELS = 2  # marked ones, of 2 and of 3


def watermark(size, **context):
  communities = np.random.default_rng(8).permutation(np.arange(LEVELS * size) % 6)
  config = WatermarkConfig(LEVELS, size, KEY, **context)
  return Watermark(config, communities.reshape(LEVELS, size))


KINDS = {
  "autoregressive": (watermark(9, frames=1, coarser=1), ("coarse",)),
  "parallel": (watermark(16, frames=0, coarser=2), ("parallel",)),
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
  mark, names = KINDS[kind]
  processor = green_list_of(mark, mark.key if key is None else key, strength, payload)
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
        mark.entries(np.concatenate([codes[t - first : t], changed[t : t + 1]]))[0, level]
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_mark_is_the_same_batched_alone_and_streamed(cascades, kind):
  cascade = cascades[KINDS[kind][1]]
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
  processor = green_list_of(mark, mark.key, 1.0)
  for chosen, words in (
    (SamplingOptions(processors=(dataclasses.replace(processor, frames=1),)), "no order of frames"),
    (SamplingOptions(processors=(processor,), passes=()), "or the watermark to off"),
  ):
    with pytest.raises(UserError, match=words):
      cascade.sample(CLIPS[:1], options=CascadeOptions({"parallel": chosen}))
