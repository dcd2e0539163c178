"""Our Mimi against what `transformers` made of the same weights (see mimi_reference.py)."""

import jax
import numpy as np
import pytest

from audiolm_jax.codec.quantizer import residual_quantize
from audiolm_jax.core import configs
from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.lm.stages import coarse_stage
from audiolm_jax.pretrained import mimi, registry
from audiolm_jax.pretrained.mimi_layers import MimiConfig, MimiEncoder
from audiolm_jax.pretrained.weights import PublishedWeights, read_published
from audiolm_jax.sampling.windows import steps_of_frames
from tests.pretrained.conftest import GOLDEN, miniature_mimi
from tests.pretrained.equality import (
  compare_codes,
  compare_sound,
  relative_difference,
)

# Whole frames of 40; less than half a frame more; more than half; less than one frame; longer than
# a block of 50 frames.
LENGTHS = (1200, 1217, 1033, 3, 2290)


@pytest.fixture(scope="module")
def codec():
  """One semantic and three acoustic levels of 16 entries, a window of 9 positions."""
  return miniature_mimi()


@pytest.fixture(scope="module")
def expected():
  with np.load(GOLDEN / "mimi" / "expected.npz") as file:
    return dict(file)


@pytest.fixture(scope="module")
def clips(expected):
  return [expected[f"waveform_{i}"] for i in range(len(LENGTHS))]


@pytest.fixture(scope="module")
def halves_of(codec):
  """A function: what each half quantizes [frames, 2, dim], of a whole clip at once."""
  apply = jax.jit(MimiEncoder(codec.config).apply)

  def run(clip):
    ends, state = np.array([len(clip)], np.int32), codec.config.encoder_state(1)
    waveform = np.pad(clip, (0, 2400 - len(clip)))[None]
    halves, _ = apply({"params": codec.params["encoder"]}, waveform, ends, state)
    return np.asarray(halves)[0, : -(-len(clip) // codec.spec.hop_length)]

  return run


def test_codes_equal_the_reference_whatever_the_length(codec, clips, expected):
  known = {samples: expected[f"codes_{i}"] for i, samples in enumerate(LENGTHS)}
  found = compare_codes(lambda clip: known[len(clip)], codec, clips)
  assert found.frames == 30 + 31 + 26 + 1 + 58 and found.different == 0
  assert all(len(np.unique(known[2290][:, level])) > 5 for level in range(4))


def test_features_of_both_halves_equal_the_reference(halves_of, clips, expected):
  for i, clip in enumerate(clips):
    assert relative_difference(halves_of(clip), expected[f"halves_{i}"]) < 1e-4


def test_sound_of_all_levels_and_of_the_first_equals_the_reference(codec, expected):
  known = [(expected[f"codes_{i}"], expected[f"sound_{i}"]) for i in range(len(LENGTHS))]
  codes = expected["codes_0"]
  known += [(codes[:, :n], expected[f"sound_of_levels_{n}"]) for n in (1, 2)]
  for codes, sound in known:
    found = compare_sound(lambda codes, sound=sound: sound, codec, codes)
    assert found.relative < 1e-4 and found.beyond == 0


def test_blocks_with_a_window_of_attention_equal_the_clip_in_one_piece(codec, clips, halves_of):
  clip, books = clips[4], codec.params["codebooks"]
  semantic, acoustic = np.moveaxis(halves_of(clip), 1, 0)
  whole = [residual_quantize(semantic, books[:1]), residual_quantize(acoustic, books[1:])]
  np.testing.assert_array_equal(codec.encode_long(clip), np.concatenate(whole, axis=-1))


def test_no_frame_depends_on_a_later_one(halves_of, clips):
  clip = clips[0].copy()
  before = halves_of(clip)
  clip[7 * 40 :] *= -1
  after = halves_of(clip)
  np.testing.assert_array_equal(after[:7], before[:7])
  assert np.any(after[7] != before[7])


def test_the_sum_of_the_codebooks_entries_is_what_is_decoded(codec, expected):
  codes, entries = expected["codes_0"], codec.codebooks
  summed = sum(entries[level][codes[:, level]] for level in range(4))
  books, decoder = np.asarray(codec.params["codebooks"]), codec.params["decoder"]
  acoustic = sum(books[level][codes[:, level]] for level in (1, 2, 3))
  projected = books[0][codes[:, 0]] @ np.asarray(decoder["semantic"]["kernel"])
  projected += acoustic @ np.asarray(decoder["acoustic"]["kernel"])
  np.testing.assert_allclose(summed, projected, rtol=0, atol=1e-5 * np.abs(projected).max())


def test_the_defaults_are_the_published_model():
  spec = MimiConfig().spec
  assert (spec.sample_rate, spec.hop_length, spec.frame_rate) == (24_000, 1920, 12.5)
  assert (spec.num_quantizers, spec.codebook_size, spec.bits_per_second) == (32, 2048, 4400.0)
  assert registry.find_model("mimi").licence == "CC-BY-4.0"


def test_a_stage_may_have_two_semantic_tokens_for_a_frame():
  spec = coarse_stage(semantic_rate=25.0, frame_rate=12.5, codebook_size=2048)
  assert (spec.crop_steps, spec.crop_frames) == (250, 125)
  assert steps_of_frames(3, 7, spec.frame_rate, spec.semantic_rate) == slice(6, 14)


def test_a_config_survives_a_bundle(codec):
  assert configs.from_dict(MimiConfig, configs.to_dict(codec.config)) == codec.config


def test_weights_that_do_not_fit_are_named():
  published = read_published(GOLDEN / "mimi")
  config, tensors = published.config, published.weights.tensors
  extra = tensors | {"encoder.layers.2.alpha": np.zeros(1)}
  missing = {k: v for k, v in tensors.items() if k != "upsample.conv.weight"}
  for changed, given, error, words in (
    ({"model_type": "dac"}, tensors, ConfigError, "type 'dac', expected 'mimi'"),
    ({"codebook_size": 32}, tensors, ConfigError, "codebooks"),
    ({"num_quantizers": 3}, tensors, DataError, "such as 'quantizer.acoustic"),
    ({"use_causal_conv": False}, tensors, ConfigError, "use_causal_conv False"),
    ({"frame_rate": 25.0}, tensors, ConfigError, "frame_rate 25.0"),
    ({"upsample_groups": 1}, tensors, ConfigError, "upsample_groups 1"),
    ({"rope_parameters": {"rope_type": "yarn"}}, tensors, ConfigError, "rope_type 'yarn'"),
    ({"rope_parameters": "yarn"}, tensors, ConfigError, "has no attribute 'get'"),
    ({}, extra, DataError, "encoder.layers.2.alpha"),
    ({}, missing, DataError, "lack 'upsample.conv.weight'"),
  ):
    with pytest.raises(error, match=words) as caught:
      mimi.convert(config | changed, PublishedWeights(given))
    assert "\n" not in str(caught.value)
  with pytest.raises(ConfigError, match="lacks 'num_filters'"):
    mimi.read_config({k: v for k, v in config.items() if k != "num_filters"})
