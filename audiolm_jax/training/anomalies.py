"""Warnings about the course of a run, independent of the model.

`Trainable.warnings` checks one row of metrics; this module compares many rows. No rule warns about
the large changes that are normal in the first steps of a run.
"""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from audiolm_jax.core.modules import Batch

# A row of metrics.jsonl.
Row = Mapping[str, float]

_SILENT = 1e-4  # a clip with a lower peak is silent; the same limit as for prompts
_MOSTLY, _SAMPLED_ROWS = 0.5, 16

_SETTLED_ROWS, _SETTLED_STEPS = 20, 500
_RECENT_ROWS = 10
_SPIKE = 10.0
_WAITING_SHARE, _WAITING_ROWS, _WAITING_SECONDS = 0.3, 3, 60
_WORSE, _WORSE_EVALUATIONS = 0.05, 3


def of_training(rows: Sequence[Row]) -> list[str]:
  """Returns warnings about the latest training rows; `rows` are ordered from old to new."""
  rules = (_loss_not_falling, _gradient_spike, _waiting_for_data)
  return [sentence for rule in rules if (sentence := rule(rows))]


def of_evaluation(training: Sequence[Row], held_out: Sequence[Row]) -> list[str]:
  """Returns warnings about the latest evaluation rows.

  Args:
    training: training rows, from old to new.
    held_out: evaluation rows, from old to new.
  """
  sentence = _overfitting(training, held_out)
  return [sentence] if sentence else []


def empty_share(batch: Batch, amounts: Mapping[str, float]) -> float:
  """Estimates the share of a batch that is silence or padding, from which nothing is learned.

  Args:
    batch: arrays whose first axis counts examples; "waveform" [batch, samples] is optional.
    amounts: result of `Trainable.amounts` for the batch.

  Returns:
    1 if there are amounts and all are 0; else 0 without "waveform"; else the share of silent clips
    among the first `_SAMPLED_ROWS` clips.
  """
  if amounts and not any(amounts.values()):
    return 1.0
  if "waveform" not in batch:
    return 0.0
  # The clips are in random order, so the first clips are a random sample.
  waveform = np.asarray(batch["waveform"][:_SAMPLED_ROWS])
  peaks = np.maximum(waveform.max(axis=-1, initial=0.0), -waveform.min(axis=-1, initial=0.0))
  return float(np.mean(peaks < _SILENT))


def of_data(empty: float) -> list[str]:
  """Returns a warning if most of the data of the last batches were silence or padding.

  Args:
    empty: mean of `empty_share` over these batches.
  """
  if empty <= _MOSTLY:
    return []
  return [
    f"{empty:.0%} of the training data are silence or padding, which teach nothing; check "
    "the recordings and their levels"
  ]


def _loss_not_falling(rows: Sequence[Row]) -> str:
  losses = [row["loss"] for row in rows if "loss" in row]
  if len(losses) < _SETTLED_ROWS or rows[-1]["step"] - rows[0]["step"] < _SETTLED_STEPS:
    return ""
  recent = statistics.fmean(losses[-_RECENT_ROWS:])
  if recent < losses[0]:
    return ""
  return (
    f"the loss, {recent:.4g}, has not fallen below that of the first steps, {losses[0]:.4g}; lower "
    "the learning rate, or check the data"
  )


def _gradient_spike(rows: Sequence[Row]) -> str:
  norms = [row["gradient_norm"] for row in rows[-_SETTLED_ROWS - 1 :] if "gradient_norm" in row]
  if len(norms) <= _SETTLED_ROWS:
    return ""
  usual = statistics.median(norms[:-1])
  if norms[-1] <= _SPIKE * usual:
    return ""
  return (
    f"the gradient norm, {norms[-1]:.3g}, is {norms[-1] / usual:.0f} times its recent median; if "
    "the loss rises with it, lower the learning rate or clip_norm"
  )


def _waiting_for_data(rows: Sequence[Row]) -> str:
  """Warns if waiting for data takes a large share of the time.

  The rule checks the rows of the last minute, or the last three rows if they cover more time.
  """
  timed = [row for row in rows if "wall_seconds" in row]
  recent = [r for r in timed if timed[-1]["wall_seconds"] - r["wall_seconds"] <= _WAITING_SECONDS]
  recent = timed[-max(len(recent), _WAITING_ROWS) :]
  if len(recent) < _WAITING_ROWS:
    return ""
  seconds = recent[-1]["wall_seconds"] - recent[0]["wall_seconds"]
  share = statistics.median(row["data_wait_share"] for row in recent)
  if seconds < _WAITING_SECONDS / 2 or share <= _WAITING_SHARE:
    return ""
  return (
    f"{share:.0%} of the time is spent waiting for data; cache the task, store the data on a local "
    "disk or in memory, or use a host with more processor cores"
  )


def _overfitting(training: Sequence[Row], held_out: Sequence[Row]) -> str:
  """Warns if the held-out loss rises while the training loss falls.

  If both losses rise, there is no warning: a new phase of training may have added a loss.
  """
  evaluations = [row for row in held_out if "loss" in row]
  losses = {row["step"]: row["loss"] for row in training if "loss" in row}
  if len(evaluations) <= _WORSE_EVALUATIONS or not losses:
    return ""
  best = min(evaluations, key=lambda row: row["loss"])
  limit = best["loss"] + _WORSE * abs(best["loss"])
  if any(row["loss"] <= limit for row in evaluations[-_WORSE_EVALUATIONS:]):
    return ""
  at_best = losses[min(losses, key=lambda step: abs(step - best["step"]))]
  if losses[max(losses)] >= at_best:
    return ""
  return (
    f"the held-out loss, {evaluations[-1]['loss']:.4g}, has risen from its best, "
    f"{best['loss']:.4g} at step {best['step']:.0f}, while the training loss falls: the model "
    "overfits; add data or dropout, or stop earlier"
  )
