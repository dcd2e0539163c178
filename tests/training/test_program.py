"""The functions of a trainable, and how often they are traced."""

import jax
import numpy as np
import toy_trainable as toy

from audiolm_jax.training.partitioning import Partitioner
from audiolm_jax.training.program import TrainingProgram

BATCH = {"x": np.zeros((4, 8), np.float32), "y": np.zeros(4, np.float32)}


def counted(monkeypatch) -> tuple[TrainingProgram, list[int]]:
  traced = []
  original = toy.ToyTrainable.train_step
  monkeypatch.setattr(
    toy.ToyTrainable, "train_step", lambda *args: traced.append(1) or original(*args)
  )
  return TrainingProgram(toy.ToyTrainable(), Partitioner(devices=jax.devices()[:1]), BATCH), traced


def test_a_training_step_is_traced_once_to_be_compiled(monkeypatch):
  program, traced = counted(monkeypatch)
  program.compiled(0)
  assert len(traced) == 1


def test_a_training_step_is_traced_once_to_be_lowered_for_several_platforms(monkeypatch):
  program, traced = counted(monkeypatch)
  exported = program.exported(0, ("cuda", "tpu"))
  assert exported.platforms == ("cuda", "tpu") and len(traced) == 1
