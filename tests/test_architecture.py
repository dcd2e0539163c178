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


def test_at_most_five_files_name_a_stage():
  assert len(architecture.files_that_name_stages()) <= 5


@pytest.mark.parametrize(
  ("code", "expected"),
  [
    ('x = bundle.stages["semantic"]', True),
    ('x = stages.get("semantic")', True),
    ('x = "semantic" in bundle.stages', True),
    ('x = spec.name == "semantic"', True),
    ('x = AutoregressiveSpec("semantic", Source.NONE)', True),
    ('stage_names = ["semantic", "acoustic"]', True),
    ('for stage in ("semantic", "acoustic"): pass', True),
    ('component = "semantic_stage"', True),
    ('flag = "temperature_coarse"', True),
    ('x = names["fine"]', True),
    ("x = bundle.stages[SEMANTIC]", True),
    ('x = stage.streams["semantic"]', False),
    ('component = "semantic"', False),
    ('x = components.get("semantic")', False),
    ('x = stages["parallel"]', False),
    ('x = "a semantic and a coarse stage"', False),
  ],
)
def test_a_name_of_a_stage_is_distinguished_from_a_stream_and_a_component(code, expected):
  assert architecture.names_stage(code) is expected


def test_no_rule_of_types_is_off_without_need():
  [count] = [x for name, x in architecture.figures() if name.startswith("rules of types")]
  assert isinstance(count, int) and count <= 1
