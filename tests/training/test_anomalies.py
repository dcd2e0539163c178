"""Warnings about the course of a run appear when they should, and not in ordinary training."""

import numpy as np
import pytest

from audiolm_jax.training import anomalies


def rows(count=40, period=100, **series):
  """Returns training rows whose metrics are functions of the row's number."""
  return [
    {"step": period * (i + 1)} | {name: float(f(i)) for name, f in series.items()}
    for i in range(count)
  ]


def falling(i):
  """Returns a falling loss with noise."""
  return 2.0 + 5.0 * np.exp(-i / 10) + 0.1 * np.sin(7.0 * i)


def warnings_of(history):
  """Returns all warnings while the rows are added one by one."""
  return [s for i in range(1, len(history) + 1) for s in anomalies.of_training(history[:i])]


def test_ordinary_training_has_no_warnings():
  history = rows(
    200,
    loss=falling,
    gradient_norm=lambda i: 0.3 + 4.0 * np.exp(-i / 5) + 2.0 * (i % 7 == 0),
    data_wait_share=lambda i: 0.9 if i == 0 else 0.05 + 0.5 * (i % 10 == 0),
    wall_seconds=lambda i: 30.0 * i,
  )
  assert warnings_of(history) == []


def test_a_gradient_that_grows_slowly_has_no_warning():
  assert warnings_of(rows(60, gradient_norm=lambda i: 0.01 * 1.1**i)) == []


@pytest.mark.parametrize("loss", [lambda i: 7.0, lambda i: 7.0 + 0.1 * i])
def test_a_loss_that_does_not_fall_is_reported(loss):
  history = rows(40, loss=loss)
  assert anomalies.of_training(history[:19]) == []
  assert "has not fallen below that of the first steps, 7" in anomalies.of_training(history)[0]
  assert anomalies.of_training(rows(40, period=5, loss=loss)) == []


def test_a_spike_of_the_gradient_is_reported_after_twenty_rows():
  spike = rows(30, gradient_norm=lambda i: 12.0 if i == 29 else 1.0)
  assert "12, is 12 times its recent median" in anomalies.of_training(spike)[0]
  assert anomalies.of_training(spike[:29]) == []
  assert anomalies.of_training(spike[-20:]) == []


def test_waiting_for_data_is_reported_after_three_long_rows_or_a_minute_of_short_ones():
  slow = rows(6, data_wait_share=lambda i: 0.1 if i < 2 else 0.45, wall_seconds=lambda i: 200 * i)
  assert anomalies.of_training(slow[:3]) == []
  assert anomalies.of_training(slow)[0].startswith("45% of the time is spent waiting for data")
  fast = rows(90, data_wait_share=lambda i: 0.1 if i < 30 else 0.45, wall_seconds=lambda i: i)
  assert anomalies.of_training(fast[:45]) == []
  assert anomalies.of_training(fast)[0].startswith("45% of the time is spent waiting for data")


def test_a_delay_of_a_second_has_no_warning():
  slow = rows(20, data_wait_share=lambda i: 0.8, wall_seconds=lambda i: 0.02 * i)
  assert warnings_of(slow) == []


def test_overfitting_is_a_held_out_loss_that_rises_while_the_training_loss_falls():
  training = rows(50, loss=lambda i: 5.0 - 0.05 * i)
  held_out = [{"step": 1000 * (i + 1), "loss": x} for i, x in enumerate([4.0, 3.0, 3.3, 3.4, 3.5])]
  sentence = anomalies.of_evaluation(training, held_out)[0]
  assert "3.5, has risen from its best, 3 at step 2000" in sentence
  assert anomalies.of_evaluation(training, held_out[:4]) == []
  rising = rows(50, loss=lambda i: 5.0 + 0.05 * i)
  assert anomalies.of_evaluation(rising, held_out) == []


def test_missing_metrics_cause_no_warnings():
  assert warnings_of(rows(40)) == []
  assert anomalies.of_evaluation([], []) == []


def test_silence_and_padding_are_empty_and_sound_is_not():
  loud, quiet = np.full((1, 100), 0.1, np.float32), np.full((3, 100), 1e-5, np.float32)
  seconds = {"audio_seconds": 1.0}
  batch = {"waveform": np.concatenate([loud, quiet])}
  assert anomalies.empty_share(batch, seconds) == 0.75
  assert anomalies.empty_share({"waveform": loud}, seconds) == 0.0
  assert anomalies.empty_share({"tokens": np.zeros(3)}, {"tokens": 0.0}) == 1.0
  assert anomalies.empty_share({"tokens": np.zeros(3)}, {"tokens": 5.0}) == 0.0
  assert anomalies.of_data(0.5) == [] and "75% of the training data" in anomalies.of_data(0.75)[0]
