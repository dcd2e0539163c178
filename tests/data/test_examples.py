"""Crops: where they start, what they hold, that seeds decide them."""

import itertools

import numpy as np
import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.data import examples
from audiolm_jax.lm import stages
from audiolm_jax.lm.parallel import parallel_stage


def _tokens(steps, odd=0, quantizers=12):
  """Returns tokens whose values are their positions in time."""
  frames = 2 * steps - odd
  return np.arange(steps), np.repeat(np.arange(frames)[:, None], quantizers, axis=1)


def _coarse(**overrides):
  return stages.coarse_stage(crop_seconds=2.0, collapse_repeats=False, **overrides)


def test_same_seed_same_crop_and_other_seeds_other_crops():
  wave = np.arange(1000.0, dtype=np.float32)
  first = examples.crop_waveform(wave, 10, (3, 4))
  np.testing.assert_array_equal(first.waveform, examples.crop_waveform(wave, 10, (3, 4)).waveform)
  starts = {examples.crop_start(1000, 10, (3, i)) for i in range(50)}
  assert len(starts) > 40


def test_every_whole_crop_is_equally_likely():
  starts = [examples.crop_start(12, 10, (0, i)) for i in range(3000)]
  counts = np.bincount(starts, minlength=3)
  assert len(counts) == 3 and np.all(abs(counts - 1000) < 120)


def test_seeds_beyond_32_bits_are_distinguished():
  assert examples.crop_start(10**9, 1, (1, 0)) != examples.crop_start(10**9, 1, (1, 1 << 40))
  examples.crop_start(10, 1, (-1, 2**63))


def test_short_clip_is_kept_whole_and_zero_padded():
  wave = np.ones(6, np.float32)
  crop = examples.crop_waveform(wave, 10, (0, 0))
  np.testing.assert_array_equal(crop.waveform, [1] * 6 + [0] * 4)
  assert crop.length == 6


def test_gain_stays_in_its_range_and_never_clips():
  wave = np.full(100, 0.5, np.float32)
  gains = [examples.jitter_gain(wave, (-12.0, 3.0), (0, i))[0] / 0.5 for i in range(200)]
  assert 10 ** (-12 / 20) <= min(gains) < 0.3 and 1.3 < max(gains) <= 10 ** (3 / 20)
  assert np.max(examples.jitter_gain(wave, (20.0, 20.0), (0, 0))) == pytest.approx(1.0)
  assert not np.any(examples.jitter_gain(np.zeros(5, np.float32), (6.0, 6.0), (0, 0)))


def test_gain_and_crop_of_one_seed_are_independent():
  pairs = [
    (examples.crop_start(1001, 1, (0, i)), float(examples.generator((0, i), 1).integers(0, 1001)))
    for i in range(400)
  ]
  assert abs(np.corrcoef(np.array(pairs).T)[0, 1]) < 0.15


def test_pcm16_is_exact_for_16_bit_samples():
  pcm = np.array([-32768, -1, 0, 1, 32767], np.int16)
  np.testing.assert_array_equal(examples.to_pcm16(examples.from_pcm16(pcm)), pcm)
  assert examples.to_pcm16(np.float32([1.0, -1.0])).tolist() == [32767, -32768]  # pyright: ignore[reportArgumentType]: it is an array


def test_segments_cover_the_clip_and_are_neither_long_nor_short():
  for samples in (1, 5, 10, 14, 15, 16, 25, 26, 1003):
    parts = examples.segments(samples, 10)
    assert parts[0][0] == 0 and parts[-1][1] == samples
    assert all(a[1] == b[0] for a, b in itertools.pairwise(parts))
    assert all(e - s <= 15 and (len(parts) == 1 or e - s >= 5) for s, e in parts)


@pytest.mark.parametrize("odd", [0, 1])
def test_token_crop_is_the_same_stretch_of_time_in_both_streams(odd):
  semantic, codes = _tokens(200, odd)
  starts = set()
  for i in range(200):
    crop = examples.crop_tokens(_coarse(), {"semantic": semantic, "codes": codes}, (7, i))
    assert len(crop["semantic"]) == 50 and crop["codes"].shape == (100, 12)
    assert crop["codes"][0, 0] == 2 * crop["semantic"][0]
    starts.add(int(crop["semantic"][0]))
  assert min(starts) < 15 and max(starts) > 135 - odd


def test_rates_without_a_whole_ratio_meet_on_a_common_grid():
  semantic, codes = np.arange(1000), np.arange(750)[:, None]  # 25 Hz against 18.75 Hz: 4 to 3
  spec = _coarse(frame_rate=18.75)
  crop = examples.crop_tokens(spec, {"semantic": semantic, "codes": codes}, (0, 5))
  assert crop["semantic"][0] % 4 == 0 and crop["codes"][0, 0] * 4 == crop["semantic"][0] * 3
  assert len(crop["semantic"]) == 48 and len(crop["codes"]) == 36


@pytest.mark.parametrize("steps", [200, 50, 20, 1])
def test_a_pair_is_two_windows_that_do_not_overlap(steps):
  spec = parallel_stage(crop_seconds=2.0, pair_share=1.0)
  semantic, codes = _tokens(steps)
  prompts, orders = set(), set()
  for i in range(60):
    example = examples.stage_example(spec, {"semantic": semantic, "codes": codes}, (3, i))
    frames = int(example["weights"].sum())
    prompt = int(example["is_prompt"].sum())
    assert frames == min(100, 2 * steps) and 0 <= prompt <= frames // 2
    found, times = example["codes"][:frames, 0], example["semantic"][:frames]
    np.testing.assert_array_equal(found // 2, times)
    assert len(np.unique(found)) == frames
    for window in (found[:prompt], found[prompt:]):
      np.testing.assert_array_equal(np.diff(window), 1)
    prompts.add(prompt)
    if prompt:
      orders.add(bool(found[0] < found[prompt]))
  if steps >= 20:
    assert len(prompts) > 5 and orders == {True, False}


def test_pairs_are_as_frequent_as_configured():
  semantic, codes = _tokens(200)
  record = {"semantic": semantic, "codes": codes}
  for share in (0.0, 0.3):
    spec = parallel_stage(crop_seconds=2.0, pair_share=share)
    made = [examples.stage_example(spec, record, (3, i)) for i in range(200)]
    assert abs(np.mean([example["is_prompt"].any() for example in made]) - share) < 0.1


def test_clip_shorter_than_the_crop_is_kept_whole():
  semantic, codes = _tokens(7, odd=1)
  crop = examples.crop_tokens(_coarse(), {"semantic": semantic, "codes": codes}, (0, 0))
  assert len(crop["semantic"]) == 7 and len(crop["codes"]) == 13
  clip = {"semantic": semantic % 5, "codes": codes % 5}
  features = examples.stage_example(_coarse(), clip, (0, 0))
  assert features["decoder_loss_weights"].sum() == 13 * 4
  assert features["decoder_target_tokens"].shape == (_coarse().max_length,)


def test_stage_takes_only_the_streams_it_uses():
  semantic, codes = _tokens(2000)
  both = {"semantic": semantic, "codes": codes}
  assert list(examples.crop_tokens(stages.semantic_stage(), both, (0, 0))) == ["semantic"]
  fine = examples.crop_tokens(stages.fine_stage(), both, (0, 3))
  assert list(fine) == ["codes"] and len(fine["codes"]) == 150
  odd_starts = [
    examples.crop_tokens(stages.fine_stage(), both, (0, i))["codes"][0, 0] % 2 for i in range(20)
  ]
  assert any(odd_starts) and not all(odd_starts)


def test_missing_stream_is_reported():
  with pytest.raises(DataError, match="stream codes"):
    examples.crop_tokens(_coarse(), {"semantic": np.arange(100)}, (0, 0))


def test_windows_cover_the_clip_once_in_order():
  semantic, codes = _tokens(120)
  windows = examples.token_windows(_coarse(), {"semantic": semantic, "codes": codes})
  np.testing.assert_array_equal(np.concatenate([w["semantic"] for w in windows]), semantic)
  np.testing.assert_array_equal(np.concatenate([w["codes"] for w in windows]), codes)
  assert [len(w["semantic"]) for w in windows] == [50, 50, 20]


def test_every_crop_fits_its_stage():
  rng = np.random.default_rng(0)
  for spec in stages.paper_stages().values():
    for i in range(20):
      steps = int(rng.integers(1, 1000))
      semantic = rng.integers(0, 1024, steps)
      codes = rng.integers(0, 1024, (2 * steps - int(rng.integers(0, 2)), 12))
      clip = {"semantic": semantic.astype(np.uint16), "codes": codes.astype(np.uint16)}
      examples.stage_example(spec, clip, (0, i))
      for window in examples.token_windows(spec, clip):
        spec.example(window)
