import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.data.frame_labels import NO_LABEL
from audiolm_jax.semantic.features import LogMelConfig
from audiolm_jax.semantic.unit_encoder import UnitEncoderConfig
from audiolm_jax.trainables.units import UnitTrainable, UnitTrainingConfig
from tests import published_programs

CONFIG = UnitTrainingConfig(
  UnitEncoderConfig(LogMelConfig(hop_length=320, num_mels=16), dim=16, dilations=(1, 2)),
  num_labels=5,
)


@pytest.fixture
def batch(speechlike):
  labels = np.random.default_rng(0).integers(0, 5, (2, 50)).astype(np.int32)
  labels[1, 30:] = NO_LABEL
  waveform = np.stack([speechlike(16_000, seed) for seed in range(2)])
  waveform[1, 9600:] = 0.0
  return {
    "waveform": waveform,
    "length": np.array([16_000, 9600], np.int32),
    "frame_label": labels,
  }


def start(batch, config=CONFIG):
  trainable = UnitTrainable(config)
  return trainable, nn.unbox(jax.jit(trainable.init)(jax.random.key(0), batch))


def test_small_has_the_size_that_its_gin_file_states():
  model = published_programs.settings("units_small")["model"]
  batch = {
    "waveform": jax.ShapeDtypeStruct((2, 64_000), np.float32),
    "length": jax.ShapeDtypeStruct((2,), np.int32),
  }
  state = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), batch))
  encoder = state.params["encoder"]
  assert round(sum(x.size for x in jax.tree.leaves(encoder)) / 1e6, 1) == 2.4
  left = model.config.encoder.receptive_field.left / 25
  assert round(left, 1) == 1.2  # half of it is 1.1 s in frames, rounded up to steps


def test_padding_and_frames_without_label_do_not_count(batch):
  trainable, state = start(batch)
  evaluate = jax.jit(trainable.eval_step)
  metrics = evaluate(state, batch)
  assert float(metrics["weight"]) == 80
  noisy = {**batch, "waveform": batch["waveform"].copy()}
  noisy["waveform"][1, 9600:] = 0.3
  np.testing.assert_allclose(evaluate(state, noisy)["loss"], metrics["loss"], rtol=1e-6)
  alone = {name: x[:1] for name, x in batch.items()}
  other = {name: x[1:] for name, x in batch.items()}
  mean = (50 * evaluate(state, alone)["loss"] + 30 * evaluate(state, other)["loss"]) / 80
  np.testing.assert_allclose(metrics["loss"], mean, rtol=1e-5)


def test_training_perturbs_and_masks_and_lowers_the_loss(batch):
  trainable, state = start(batch)
  step = jax.jit(trainable.train_step)
  losses = []
  for i in range(30):
    state, metrics = step(state, batch, jax.random.key(i))
    losses.append(float(metrics["loss"]))
  assert np.mean(losses[-5:]) < 0.97 * np.mean(losses[:5]) and not float(metrics["skipped"])
  _, one = step(state, batch, jax.random.key(0))
  _, two = step(state, batch, jax.random.key(1))
  assert float(one["loss"]) != float(two["loss"])


@pytest.mark.parametrize("changes", [{"num_labels": 1}, {"mask_probability": 1.0}])
def test_impossible_settings_are_rejected(changes):
  with pytest.raises(ConfigError, match=next(iter(changes))):
    dataclasses.replace(CONFIG, **changes)


def test_a_later_round_starts_from_the_encoder_but_not_from_the_head(batch):
  trainable, state = start(batch)
  trained = trainable.inference_params(trainable.train_step(state, batch, jax.random.key(3))[0])
  more_labels = dataclasses.replace(CONFIG, num_labels=7)
  later, new = start(batch, more_labels)
  begun = later.with_params(new, later.run_params(CONFIG, trained, "the run a"))
  found = later.inference_params(begun)
  jax.tree.map(np.testing.assert_array_equal, found["encoder"], trained["encoder"])
  jax.tree.map(np.testing.assert_array_equal, found["head"], nn.unbox(new.params)["head"])
  narrow = dataclasses.replace(CONFIG, encoder=dataclasses.replace(CONFIG.encoder, dim=8))
  with pytest.raises(ConfigError, match=r"the run a.*dim was 16, is 8"):
    start(batch, narrow)[0].run_params(CONFIG, trained, "the run a")
