"""The order of the rooms: what imports what."""

import pytest

from tests import architecture


def test_no_module_imports_against_the_order():
  assert architecture.forbidden_imports() == []


@pytest.mark.parametrize(
  ("importer", "imported", "allowed"),
  [
    ("audiolm_jax.codec.losses", "audiolm_jax.dsp.stft", True),
    ("audiolm_jax.dsp.stft", "audiolm_jax.codec.losses", False),
    ("audiolm_jax.codec.losses", "audiolm_jax.semantic.features", False),
    ("audiolm_jax.lm.stages", "audiolm_jax.lm.tokens", True),
    ("audiolm_jax.training.trainer", "audiolm_jax.bundles.bundle", False),
    ("audiolm_jax.trainables.codec", "audiolm_jax.training.trainer", True),
    ("audiolm_jax.codec.losses", "audiolm_jax.training.trainer", False),
    ("audiolm_jax.train", "audiolm_jax.evaluation.report", True),
    ("audiolm_jax.demo.page", "audiolm_jax.evaluation.report", False),
  ],
)
def test_the_order_allows_what_stands_left_and_nothing_else(importer, imported, allowed):
  assert architecture.is_allowed(importer, imported) is allowed


def test_lazy_imports_and_those_for_type_checking_count():
  known = architecture.modules()
  assert "audiolm_jax.sampling.cascade" in architecture.imports("audiolm_jax.bundles.bundle", known)


def test_the_commands_alone_stand_directly_in_the_package():
  assert architecture.top_level_modules() == {*architecture._COMMANDS, "__init__"}


def test_no_two_public_classes_have_the_same_name():
  found = architecture.public_classes()
  # In `data.datasets` settings that gin files name; they create the batches of `data.in_memory`.
  assert found["InMemoryTokens"] == ["audiolm_jax.data.datasets"]
  assert len(found) > 300
  assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_training_a_stage_loads_no_other_model():
  loaded = architecture.loaded_by("audiolm_jax.trainables.stage")
  # It names the kinds of stages, and imports one when it is asked for.
  loaded.discard("audiolm_jax.sampling.registry")
  rooms = {architecture.room(name) for name in loaded}
  assert rooms <= {"commands", "core", "io", "lm", "lm.tokens", "training", "trainables"}
