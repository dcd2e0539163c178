"""Means over steps, and spectrograms of clips."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from audiolm_jax.training import metrics


def test_means_are_weighted_and_ignore_non_finite_values():
  total = metrics.empty(["loss", "weight", "skipped"])
  for loss, weight, skipped in [(1.0, 1.0, 0.0), (4.0, 3.0, 0.0), (jnp.nan, 9.0, 1.0)]:
    total = jax.jit(metrics.accumulate)(total, {"loss": loss, "weight": weight, "skipped": skipped})
  assert metrics.means(total) == {"loss": (1 * 1 + 4 * 3) / 4, "skipped_steps": 1.0}


def test_skipped_updates_are_counted_whatever_their_weight():
  total = metrics.empty(["skipped"])
  for weight, skipped in [(50.0, 1.0), (0.0, 1.0), (50.0, 0.0), (7.0, 1.0)]:
    total = metrics.accumulate(total, {"weight": weight, "skipped": skipped})
  assert metrics.means(total) == {"skipped_steps": 3.0}


def test_skipped_updates_are_counted_in_a_row():
  total = metrics.empty(["skipped"])
  seen = []
  for skipped in [1.0, 1.0, 0.0, 1.0]:
    total = metrics.accumulate(total, {"skipped": skipped})
    seen.append(float(total.skipped_in_a_row))
  assert seen == [1, 2, 0, 1]


def test_json_gives_the_same_bits_back():
  total = metrics.accumulate(metrics.empty(["a", "b"]), {"a": jnp.float32(1 / 3), "b": jnp.pi})
  again = metrics.from_json(json.loads(json.dumps(metrics.to_json(total))), ["a", "b"])
  jax.tree.map(np.testing.assert_array_equal, again, jax.device_get(total))


def test_sums_of_another_version_are_kept_for_the_same_names():
  total = metrics.accumulate(metrics.empty(["a", "gone"]), {"a": 2.0, "gone": 3.0})
  again = metrics.from_json(metrics.to_json(total), ["a", "new"])
  again = metrics.accumulate(again, {"a": 4.0, "new": 5.0})
  assert metrics.means(again) == {"a": 3.0, "new": 5.0}


def test_a_tone_is_a_bright_line_at_its_frequency():
  t = np.arange(16000) / 16000
  rows = []
  for hertz in (200, 2000):
    picture = metrics.spectrogram_image(np.sin(2 * np.pi * hertz * t).astype(np.float32), 16000)
    assert picture.shape[0] == 128 and picture.shape[2] == 1
    assert picture.min() >= 0 and picture.max() <= 1
    rows.append(int(picture.mean(axis=(1, 2)).argmax()))
  assert rows[0] > rows[1]
