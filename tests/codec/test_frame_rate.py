"""The layers of the frame-rate codec."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from audiolm_jax.codec.frame_rate import FrameRateConfig, FrameRateDecoder
from audiolm_jax.core import configs
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.trainables.codec import CodecTrainingConfig

from .conftest import FRAME_RATE, chirp


@pytest.fixture(scope="module")
def params():
  waveform = chirp(3200)[None]
  keys = jax.random.split(jax.random.key(0))
  return meta.unbox(FRAME_RATE.init_params(keys, waveform))  # pyright: ignore[reportArgumentType]: NumPy arrays serve


def test_the_defaults_are_six_kilobits_and_eighty_milliseconds():
  config = FrameRateConfig()
  assert config.spec.bits_per_second == 6000
  assert (1 + config.lookahead_frames) * config.hop_length == 0.08 * config.sample_rate
  shapes = jax.eval_shape(
    config.init_params, jax.random.split(jax.random.key(0)), np.ones((1, 640))
  )
  sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in shapes.items()}
  assert sizes == {"encoder": 1_835_584, "decoder": 5_695_043}


@pytest.mark.parametrize(
  ("changed", "words"),
  [
    ({"encoder_window": 500}, "encoder_window 500 is not a multiple of short_hop 80"),
    ({"decoder_window": 1000}, "decoder_window 1000"),
    ({"hop_length": 300}, "hop_length 300 is not a multiple of short_hop 80"),
    ({"window_lead": 5}, "window_lead 5 is not in 0..4, the short frames of lookahead_frames"),
  ],
)
def test_windows_that_do_not_fit_are_refused(changed, words):
  with pytest.raises(ConfigError, match=words):
    dataclasses.replace(FRAME_RATE, **changed)


def test_no_latent_depends_on_later_samples(params):
  encode = jax.jit(FRAME_RATE.encode_latents)
  before = encode(params["encoder"], chirp(3200)[None])
  changed = chirp(3200)[None].copy()
  changed[:, 5 * 320 :] *= -0.5
  after = encode(params["encoder"], changed)
  np.testing.assert_array_equal(after[:, :5], before[:, :5])
  assert np.abs(after[:, 5] - before[:, 5]).max() > 1e-3


@pytest.mark.parametrize(("lead", "lookahead"), [(0, 0), (0, 1), (3, 1), (4, 1), (5, 2)])
def test_samples_depend_on_as_many_later_short_frames_as_stated(lead, lookahead):
  config = dataclasses.replace(FRAME_RATE, window_lead=lead, lookahead_frames=lookahead)
  keys = jax.random.split(jax.random.key(0))
  params = meta.unbox(config.init_params(keys, chirp(3200)[None]))["decoder"]  # pyright: ignore[reportArgumentType]: NumPy arrays serve
  latents = np.random.default_rng(0).normal(size=(1, 10, 8)).astype(np.float32)
  changed = latents.copy()
  changed[:, 6:] *= -1
  decode = jax.jit(config.decode_latents)
  difference = np.abs(decode(params, latents) - decode(params, changed))[0]
  first = np.flatnonzero(difference > 1e-6)[0]
  # A Hann window begins with a zero.
  assert first - (6 * 320 - lead * 80) in range(1, 8)


def test_frames_past_the_end_write_nothing(params):
  rng = np.random.default_rng(0)
  latents = rng.normal(size=(2, 9, 8)).astype(np.float32)
  decoder, zeros = FrameRateDecoder(FRAME_RATE), FRAME_RATE.decoder_state(2)
  run = jax.jit(lambda x, ends: decoder.apply({"params": params["decoder"]}, x, ends, zeros)[0])
  together = run(latents, np.array([9, 4]))
  changed = latents.copy()
  changed[1, 4:] = 7.0
  np.testing.assert_array_equal(run(changed, np.array([9, 4])), together)
  # The first 320 samples precede the clip. The window of the last short frame of frame 3 begins
  # one short frame before it.
  last = 320 + 4 * 320 + 80 * 2
  assert np.abs(together[1, last - 80 : last]).max() > 0
  assert not np.any(together[1, last:])


def test_a_window_of_constant_magnitude_is_the_transform_of_its_spectrum(params):
  # With a constant spectrum in every frame, the overlapping windows add up to a steady waveform.
  frozen = jax.tree.map(jnp.zeros_like, params["decoder"])
  bins = FRAME_RATE.decoder_window // 2 + 1
  head = np.zeros((3, bins), np.float32)
  head[0] = 1 + np.log(50.0)
  head[1, 8] = 2.0  # 8 periods in a window of 320 samples: 400 Hz
  frozen["output"]["bias"] = jnp.asarray(head.reshape(-1))
  waveform = FRAME_RATE.decode_latents(frozen, np.zeros((1, 12, 8), np.float32))[0]  # pyright: ignore[reportArgumentType]: NumPy arrays serve
  time = np.arange(4 * 320, 8 * 320)
  tone = 2 * 100 / 320 * np.cos(2 * np.pi * 8 * time / 320)
  np.testing.assert_allclose(waveform[4 * 320 : 8 * 320], tone, atol=1e-5)


def test_its_training_configuration_survives_json():
  config = CodecTrainingConfig(model=FRAME_RATE, complex_share=1.0)
  assert configs.from_dict(CodecTrainingConfig, configs.to_dict(config)) == config
