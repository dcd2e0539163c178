import dataclasses
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from audiolm_jax.core.errors import ConfigError
from audiolm_jax.data.frame_labels import NO_LABEL
from audiolm_jax.semantic.features import LogMelConfig
from audiolm_jax.semantic.unit_classifier import CODEBOOK
from audiolm_jax.semantic.unit_encoder import (
  UnitEncoderConfig,
  UnitTokenizer,
  UnitTokenizerConfig,
)
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


@pytest.mark.parametrize(
  "changes",
  [{"num_labels": 1}, {"mask_probability": 1.0}, {"num_units": 1}, {"characters": "aa"}],
)
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


def test_a_quantizer_and_characters_learn_units_that_keep_their_information(batch):
  config = dataclasses.replace(CONFIG, num_units=6, characters="abc", augment=None)
  text = np.full((2, 8), NO_LABEL, np.int32)
  text[0, :5] = [0, 1, 1, 2, 0]
  batch = batch | {"text": text}
  trainable, state = start(batch, config)
  step, metrics = jax.jit(trainable.train_step), []
  for i in range(60):
    state, found = step(state, batch, jax.random.key(i))
    metrics.append({name: float(value) for name, value in found.items()})
  for name in ("label_loss", "character_loss"):
    assert metrics[-1][name] < 0.9 * metrics[0][name]
  assert metrics[-1]["perplexity"] > 1.5 and not metrics[-1]["skipped"]
  weighted = dataclasses.replace(config, character_weight=3.0, commitment_weight=0.0)
  one, more = (jax.jit(UnitTrainable(c).eval_step)(state, batch) for c in (config, weighted))
  expected = 2 * one["character_loss"] - 0.25 * one["quantization_error"]
  np.testing.assert_allclose(more["loss"] - one["loss"], expected, rtol=1e-4)


def test_an_update_moves_each_used_entry_towards_the_mean_of_its_features(batch):
  config = dataclasses.replace(CONFIG, num_units=6, augment=None, mask_probability=0.0)
  trainable, state = start(batch, config)
  before = np.asarray(state.params[CODEBOOK])
  log_mel, inside = trainable._features(None, batch)
  found: Any = trainable.model.apply({"params": state.params}, log_mel, inside)
  steps, _, units = jax.tree.map(np.array, found.quantized)
  units[1, 15:] = -1  # padding
  after = np.asarray(
    jax.jit(trainable.train_step)(state, batch, jax.random.key(0))[0].params[CODEBOOK]
  )
  for unit in range(6):
    own = steps[units == unit]
    mean = own.mean(0) if len(own) else before[unit]
    np.testing.assert_allclose(after[unit], before[unit] + 0.03 * (mean - before[unit]), atol=1e-5)
  assert len(np.unique(units)) > 2


def test_texts_that_a_clip_has_no_steps_for_do_not_count(batch):
  config = dataclasses.replace(CONFIG, characters="ab")
  given = batch | {"text": np.full((2, 40), NO_LABEL, np.int32)}
  trainable, state = start(given, config)
  loss = jax.jit(trainable.eval_step)
  assert float(loss(state, given)["character_loss"]) == 0.0  # no text at all
  given["text"][0, :10] = [0, 1] * 5
  one = float(loss(state, given)["character_loss"])
  assert one > 0.1
  given["text"][1, :8] = 0  # with a blank between equal characters, 15 steps; the clip has 15
  both = float(loss(state, given)["character_loss"])
  given["text"][1, 8] = 0
  assert both != one and float(loss(state, given)["character_loss"]) == pytest.approx(one)


def test_the_codebook_starts_from_the_centroids_of_a_bundle(batch):
  trainable, state = start(batch)
  rng = np.random.default_rng(0)
  tokenizer = UnitTokenizer(
    UnitTokenizerConfig(CONFIG.encoder, num_clusters=6),
    {
      "encoder": trainable.inference_params(state)["encoder"],
      "mean": rng.standard_normal(16).astype(np.float32),
      "scale": rng.uniform(1, 2, 16).astype(np.float32),
      "centroids": rng.standard_normal((6, 16)).astype(np.float32),
    },
  )
  refined, new = start(batch, dataclasses.replace(CONFIG, num_units=6))
  begun = refined.with_params(new, refined.component_params(tokenizer, "the bundle a"))
  waveform = batch["waveform"][:1]
  steps = tokenizer.features(waveform) * tokenizer.params["scale"] + tokenizer.params["mean"]
  scaled = np.square((steps[:, :, None] - begun.params["codebook"]) / tokenizer.params["scale"])
  np.testing.assert_array_equal(scaled.sum(-1).argmin(-1), tokenizer.tokenize(waveform))
  other = start(batch, dataclasses.replace(CONFIG, num_units=7))[0]
  with pytest.raises(ConfigError, match="the bundle a has 6 units and num_units is 7"):
    other.component_params(tokenizer, "the bundle a")
