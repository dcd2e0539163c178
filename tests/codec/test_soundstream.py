import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from audiolm_jax.codec.soundstream import SoundStreamConfig

from .conftest import CONFIG, chirp


def parameter_count(params) -> int:
  return sum(x.size for x in jax.tree.leaves(params))


# Those of gin_configs/models/codec_tiny.gin and codec_piano.gin.
TINY = SoundStreamConfig(encoder_channels=8, decoder_channels=16, latent_dim=128)
PIANO = SoundStreamConfig(num_quantizers=3, codebook_size=2**14)


def _abstract(config: SoundStreamConfig):
  waveform = jax.ShapeDtypeStruct((2, 16_000), jnp.float32)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0)))
  params = jax.eval_shape(config.init_params, keys, waveform)
  return params["encoder"], params["decoder"]


def test_paper_codec_has_fifty_frames_per_second_at_six_kilobits():
  spec = SoundStreamConfig().spec
  assert (spec.hop_length, spec.frame_rate, spec.bits_per_second) == (320, 50.0, 6000.0)


def test_piano_codec_has_three_levels_of_sixteen_thousand_entries():
  spec = PIANO.spec
  assert (spec.num_quantizers, spec.codebook_size) == (3, 16_384)


def test_parameter_counts_are_the_documented_ones():
  encoder, decoder = _abstract(SoundStreamConfig())
  assert 5.0e6 < parameter_count(meta.unbox(encoder)) < 5.8e6
  assert 6.0e6 < parameter_count(meta.unbox(decoder)) < 6.8e6
  encoder, decoder = _abstract(TINY)
  assert parameter_count(meta.unbox(encoder)) + parameter_count(meta.unbox(decoder)) < 1.8e6


def test_every_parameter_carries_logical_axes():
  for tree in _abstract(TINY):
    boxed = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, meta.AxisMetadata))
    assert boxed and all(isinstance(leaf, meta.AxisMetadata) for leaf in boxed)


def test_a_frame_does_not_see_the_samples_after_it(codec):
  waveform = chirp(3200)[None]
  changed = waveform.copy()
  changed[:, 1600:] = 0.3
  before, after = (
    CONFIG.encode_latents(codec.params["encoder"], jnp.asarray(w)) for w in (waveform, changed)
  )
  np.testing.assert_array_equal(before[:, :5], after[:, :5])
  assert np.abs(before[:, 5:] - after[:, 5:]).max() > 1e-3


def test_a_sample_does_not_depend_on_later_frames(codec):
  latents = jax.random.normal(jax.random.key(0), (1, 10, 8))
  changed = latents.at[:, 6:].set(1.0)
  before, after = (CONFIG.decode_latents(codec.params["decoder"], z) for z in (latents, changed))
  np.testing.assert_array_equal(before[:, : 6 * 320], after[:, : 6 * 320])
  assert np.abs(before[:, 6 * 320 :] - after[:, 6 * 320 :]).max() > 1e-4
