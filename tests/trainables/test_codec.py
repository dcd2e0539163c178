import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from audiolm_jax.bundles.components import codec_of
from audiolm_jax.codec.discriminators import DiscriminatorConfig
from audiolm_jax.codec.losses import SpectralLossConfig
from audiolm_jax.codec.residual_codec import ResidualCodec
from audiolm_jax.core import configs
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.trainables.codec import CodecTrainable, CodecTrainingConfig
from audiolm_jax.training.optimizers import OptimizerConfig
from tests.conftest import assert_bfloat16_products_hardly_turn, float32_products

from .conftest import CONFIG, FRAME_RATE, chirp

ADAM = OptimizerConfig(name="adam", learning_rate=3e-3)
TRAINING = CodecTrainingConfig(
  model=CONFIG,
  discriminators=DiscriminatorConfig(
    wave_scales=(1,), wave_channels=2, wave_max_channels=4, stft_windows=(256,), stft_channels=2
  ),
  spectral=SpectralLossConfig(windows=(64, 512), num_mels=16),
  generator_optimizer=ADAM,
  discriminator_optimizer=ADAM,
  quantizer_start_step=2,
  adversarial_start_step=4,
  kmeans_vectors=64,
)
BATCH = {"waveform": np.stack([chirp(3200, s) for s in range(2)])}


def compiled_steps(trainable):
  """Returns the training step, compiled for each combination of parts."""
  compiled = jax.jit(trainable.train_step, static_argnums=(3, 4))

  def step(state, batch, rng):
    return compiled(state, batch, rng, *trainable.parts(int(state.step)))

  return step


@pytest.fixture(scope="module")
def run():
  """Returns the trainable, its compiled step, the first seven states and metrics of 60 steps."""
  trainable = CodecTrainable(TRAINING)
  step = compiled_steps(trainable)
  state = jax.jit(lambda key: meta.unbox(trainable.init(key, BATCH)))(jax.random.key(0))
  states, metrics = {0: state}, []
  for i in range(60):
    state, m = step(state, BATCH, jax.random.key(i))
    if i < 6:
      states[i + 1] = state
    metrics.append(jax.device_get(m))
  return trainable, step, states, metrics


def _moved(a, b) -> bool:
  return any(
    np.abs(x - y).max() > 0 for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def test_phases_start_at_their_steps(run):
  _, _, states, metrics = run
  assert _moved(states[0].generator, states[1].generator)
  assert not _moved(states[0].quantizer, states[2].quantizer)
  assert _moved(states[2].quantizer, states[3].quantizer)
  assert not _moved(states[0].discriminators, states[4].discriminators)
  assert _moved(states[4].discriminators, states[5].discriminators)
  assert metrics[1]["commitment"] == 0 < metrics[2]["commitment"]
  assert metrics[3]["discriminator"] == 0 < metrics[4]["discriminator"]


def test_codebooks_start_as_kmeans_of_recent_latents(run):
  _, _, states, _ = run
  latents = states[2].recent[:20]
  first = states[3].quantizer.codebooks[0]
  distance = jnp.min(jnp.linalg.norm(latents[:, None] - first, axis=-1), axis=1)
  assert float(jnp.mean(distance)) < float(jnp.mean(jnp.linalg.norm(latents, axis=-1)))


def test_every_metric_is_finite_and_nothing_is_skipped(run):
  for metrics in run[3]:
    assert all(np.isfinite(v) for v in metrics.values()), metrics
    assert metrics["skipped"] == 0


def test_perplexity_and_dead_codes_are_reported_per_level(run):
  for level in range(CONFIG.num_quantizers):
    assert 1 <= run[3][5][f"perplexity_{level}"] <= CONFIG.codebook_size + 1e-3
    assert run[3][5][f"dead_codes_{level}"] >= 0


@pytest.mark.slow
def test_bfloat16_products_change_the_gradients_little(run):
  trainable, step, states, _ = run
  state = states[6]
  zeros = jax.tree.map(jnp.zeros_like, (state.generator_opt, state.discriminator_opt))
  state = state.replace(generator_opt=zeros[0], discriminator_opt=zeros[1])

  def gradients(state):
    # The first moments of new optimizers are proportional to the gradients.
    new, _ = step(state, BATCH, jax.random.key(7))
    moments = (new.generator_opt, new.discriminator_opt)
    found = jax.tree.leaves(moments, is_leaf=lambda x: hasattr(x, "mu"))
    return [x.mu for x in found if hasattr(x, "mu")]

  assert_bfloat16_products_hardly_turn(gradients, state, cosine=0.99)
  kept = float32_products(
    lambda s: trainable.train_step(s, BATCH, jax.random.key(7), True, False), state
  )
  assert not any("convolution" in line for line in kept)


def test_a_batch_with_nan_changes_only_the_step(run):
  _, step, states, _ = run
  bad = {"waveform": BATCH["waveform"] * np.nan}
  new, metrics = step(states[6], bad, jax.random.key(9))
  assert metrics["skipped"] == 1 and int(new.step) == 7
  assert not _moved(new.replace(step=states[6].step), states[6])


def test_codebooks_start_after_a_skipped_step(run):
  _, step, states, _ = run
  bad = {"waveform": BATCH["waveform"] * np.nan}
  skipped, _ = step(states[2], bad, jax.random.key(2))
  assert not _moved(skipped.quantizer, states[0].quantizer)
  new, metrics = step(skipped, BATCH, jax.random.key(3))
  assert metrics["skipped"] == 0
  assert jnp.all(jnp.any(new.quantizer.codebooks != 0, axis=-1))


def test_fixed_codes_stay_while_the_decoder_learns(run):
  _, _, states, _ = run
  trainable = CodecTrainable(dataclasses.replace(TRAINING, codes_fixed_step=6))
  step = compiled_steps(trainable)
  state = states[6]
  before = trainable.inference_params(state)
  bad = {"waveform": BATCH["waveform"] * np.nan}
  for i, batch in enumerate((bad, BATCH, BATCH)):
    state, metrics = step(state, batch, jax.random.key(i))
  after = trainable.inference_params(state)
  assert metrics["skipped"] == 0
  assert not _moved(
    (before["encoder"], before["codebooks"]), (after["encoder"], after["codebooks"])
  )
  for (path, old), (_, new) in zip(
    *(jax.tree.leaves_with_path(p["decoder"]) for p in (before, after)), strict=True
  ):
    assert _moved(old, new), jax.tree_util.keystr(path)
  old, new = (ResidualCodec(CONFIG, p).encode(BATCH["waveform"]) for p in (before, after))
  np.testing.assert_array_equal(old, new)


def test_every_parameter_of_encoder_and_decoder_learns(run):
  _, _, states, _ = run
  first, last = (jax.tree.leaves_with_path(states[i].generator) for i in (0, 6))
  for (path, before), (_, after) in zip(first, last, strict=True):
    assert _moved(before, after), jax.tree_util.keystr(path)


def test_one_batch_is_overfitted(run):
  losses = [float(m["loss"]) for m in run[3]]
  assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_exported_codec_reconstructs_what_training_reconstructs(run):
  trainable, _, states, _ = run
  codec = ResidualCodec(CONFIG, trainable.inference_params(states[6]))
  np.testing.assert_allclose(
    codec.decode(codec.encode(BATCH["waveform"])),
    jax.jit(trainable.reconstruct)(states[6], BATCH["waveform"]),
    atol=1e-5,
  )


def test_evaluation_weighs_by_examples_and_summaries_are_audio(run):
  trainable, _, states, _ = run
  metrics = jax.jit(trainable.eval_step)(states[6], BATCH)
  assert metrics["weight"] == 2 and metrics["loss"] > 0
  summaries = jax.jit(trainable.summaries)(states[6], BATCH)
  assert {v.samples.shape for v in summaries.values()} == {(2, 3200)}


def test_configuration_survives_json(run):
  assert configs.from_dict(CodecTrainingConfig, configs.to_dict(TRAINING)) == TRAINING


def test_a_crop_shorter_than_an_analysis_window_is_refused(run):
  with pytest.raises(ConfigError, match="100 samples is shorter than the longest analysis window"):
    run[0].init(jax.random.key(0), {"waveform": np.zeros((1, 100), np.float32)})


def test_codebooks_that_cannot_follow_the_latents_are_reported(run):
  trainable, _, _, metrics = run
  metrics = [{name: float(value) for name, value in m.items()} for m in metrics]
  assert not any(trainable.warnings(m) for m in metrics)
  behind = metrics[-1] | {"commitment": 2 * metrics[-1]["latent_scale"] ** 2}
  assert "the codebooks cannot follow the latents" in trainable.warnings(behind)[0]


def test_mean_and_least_perplexity_are_those_of_the_levels(run):
  last = run[3][-1]
  levels = [last[f"perplexity_{level}"] for level in range(CONFIG.num_quantizers)]
  np.testing.assert_allclose(last["perplexity_mean"], np.mean(levels), rtol=1e-6)
  assert last["perplexity_min"] == min(levels)


def test_seconds_of_audio_exclude_padding(run):
  assert run[0].amounts(BATCH) == {"audio_seconds": 0.4}
  assert run[0].amounts(BATCH | {"length": np.array([3200, 1600])}) == {"audio_seconds": 0.3}


def test_discriminators_have_no_flops_until_they_start(run):
  trainable = run[0]
  before, after = (trainable.flops_per_step(BATCH, step) for step in (3, 4))
  discriminators = 2 * 9 * TRAINING.discriminators.forward_flops(3200)
  assert after - before == pytest.approx(discriminators)


def test_a_frame_rate_codec_is_trained_and_exported():
  config = dataclasses.replace(
    TRAINING, model=FRAME_RATE, complex_share=1.0, waveform_share=0.0, adversarial_start_step=60
  )
  trainable = CodecTrainable(config)
  step = compiled_steps(trainable)
  state = jax.jit(lambda key: meta.unbox(trainable.init(key, BATCH)))(jax.random.key(0))
  first, metrics = state, []
  for i in range(30):
    state, m = step(state, BATCH, jax.random.key(i))
    metrics.append(jax.device_get(m))
  assert all(m["skipped"] == 0 and m["complex"] > 0 for m in metrics)
  losses = [float(m["spectral"] + m["complex"]) for m in metrics]
  assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
  for (path, before), (_, after) in zip(
    *(jax.tree.leaves_with_path(s.generator) for s in (first, state)), strict=True
  ):
    assert _moved(before, after), jax.tree_util.keystr(path)
  codec = codec_of(FRAME_RATE, trainable.inference_params(state))
  np.testing.assert_allclose(
    codec.decode(codec.encode(BATCH["waveform"])),
    jax.jit(trainable.reconstruct)(state, BATCH["waveform"]),
    atol=1e-4,
  )
