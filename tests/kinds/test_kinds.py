"""Kinds of stages that the library does not know go the whole way that its own go."""

import dataclasses

import jax
import numpy as np
import pytest

from audiolm_jax.bundles import load_bundle, save_bundle
from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.core.streams import Role, Stream
from audiolm_jax.data.datasets import InMemoryTokens
from audiolm_jax.data.token_shards import TokenClip
from audiolm_jax.data.token_store import TokenStoreWriter
from audiolm_jax.sampling import registry
from audiolm_jax.sampling.cascade import CascadeOptions, Clip
from audiolm_jax.trainables.registry import load_inference_params
from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig
from audiolm_jax.training import trainer
from audiolm_jax.training.optimizers import OptimizerConfig
from tests.kinds.masked import MaskedConfig, MaskedSpec
from tests.kinds.stopping import stopped_at
from tests.kinds.text_to_semantic import TextConfig, TextSpec

SPECS = {"reader": TextSpec("reader"), "painter": MaskedSpec("painter")}
CONFIGS = {"reader": TextConfig(), "painter": MaskedConfig()}
OPTIONS = CascadeOptions(overlap_seconds=0.12)


@pytest.fixture(scope="module", autouse=True)
def kinds():
  with pytest.MonkeyPatch.context() as patch:
    for kind, module, name in (
      ("text_to_semantic", "text_to_semantic", "Text"),
      ("masked", "masked", "Masked"),
    ):
      home = f"tests.kinds.{module}:{name}"
      patch.setitem(registry.KINDS, kind, registry.StageKind(f"{home}Spec", f"{home}Sampler"))
    yield


@pytest.fixture(scope="module")
def tokenizers(miniature_bundle, tmp_path_factory):
  bare = dataclasses.replace(miniature_bundle, stages={}, semantic_rate=None, temperatures={})
  return save_bundle(bare, tmp_path_factory.mktemp("bundles") / "tokenizers")


@pytest.fixture(scope="module")
def store(miniature_bundle, tmp_path_factory):
  """Each character lasts five semantic tokens, which are twice its number."""
  folder = tmp_path_factory.mktemp("tokens")
  streams = [*miniature_bundle.streams.values(), Stream("text", 8, role=Role.SOURCE)]
  writer = TokenStoreWriter(folder, miniature_bundle.token_hash, streams=streams)
  rng = np.random.default_rng(0)
  for i in range(40):
    text = rng.integers(0, 8, rng.integers(2, 7))
    semantic = 2 * np.repeat(text, 5)
    codes = np.repeat(semantic, 2)[:, None] % 13 + np.arange(4)
    record = {"source.text": text, "semantic": semantic, "codes": codes}
    writer.add(
      TokenClip(str(i), record, "valid" if i == 0 else "train", seconds=len(semantic) / 25)
    )
  writer.finish()
  return str(folder)


def train(name, store, folder, steps, stop_at=None):
  model = StageTrainable(
    StageTrainingConfig(
      SPECS[name], CONFIGS[name], OptimizerConfig(name="adam", learning_rate=2e-2), ema_decay=0.5
    )
  )
  data = InMemoryTokens(store, SPECS[name], batch_size=8)

  config = trainer.TrainConfig(
    folder, total_steps=steps, log_period=10, eval_period=steps, products="float32",
    tensorboard=False,
  )  # fmt: skip
  return trainer.train(
    config,
    model=model,
    train_dataset=data if stop_at is None else stopped_at(data, stop_at),
    eval_dataset=dataclasses.replace(data, split="valid", num_epochs=1),
  )


STEPS = {"reader": 60, "painter": 40}


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory):
  """Both stages trained, each stopped on its way and resumed."""
  folder = tmp_path_factory.mktemp("runs")
  for name, steps in STEPS.items():
    halted = train(name, store, folder / name, steps, stop_at=9)
    assert not halted.finished and 0 < halted.step < steps
    done = train(name, store, folder / name, steps)
    assert done.finished and "loss" in done.eval_metrics
  return folder


@pytest.fixture(scope="module")
def bundle(tokenizers, store, runs, tmp_path_factory):
  """What export_bundle makes of the runs, whose order is not the one in which they sample."""
  from audiolm_jax import export_bundle

  folder = tmp_path_factory.mktemp("exported") / "mine"
  export_bundle.FLAGS.unparse_flags()
  export_bundle.FLAGS(
    ["export_bundle", f"--bundle={tokenizers}", f"--token_store={store}", f"--output={folder}"]
    + [f"--stage_dir={name}={runs / name}" for name in ("painter", "reader")]
  )
  export_bundle.main([])
  for flag in export_bundle.FLAGS:
    export_bundle.FLAGS[flag].unparse()
  return load_bundle(folder)


@pytest.mark.parametrize("name", STEPS)
def test_a_stopped_run_has_the_parameters_of_one_that_was_not(name, store, runs, tmp_path):
  train(name, store, tmp_path / "whole", STEPS[name])
  component, config, params = load_inference_params(runs / name)
  assert component == f"{name}_stage"
  assert (config.spec, config.transformer) == (SPECS[name], CONFIGS[name])
  jax.tree.map(np.testing.assert_array_equal, params, load_inference_params(tmp_path / "whole")[2])


def test_seqio_tasks_make_the_examples_that_the_stages_build(store):
  seqio = pytest.importorskip("seqio")
  from audiolm_jax.data import in_memory, registration

  registration.register_audio_tasks("kinds", store, stage_specs=SPECS)
  for name, spec in SPECS.items():
    reader = in_memory.InMemoryTokenBatches(store, spec, "valid", batch_size=1)
    task = seqio.get_mixture_or_task(f"kinds_{name}_stage")
    found = list(task.get_dataset(None, split="valid", shuffle=False, seed=1).as_numpy_iterator())
    assert found
    for example in found:
      expected = reader.example(example["id"].decode(), tuple(example["seed"]))
      assert set(expected) <= set(example)
      for feature, value in expected.items():
        np.testing.assert_array_equal(example[feature], value)


def test_the_bundle_lists_its_stages_in_their_order_with_their_kinds(bundle):
  assert [(n, s.spec.kind) for n, s in bundle.stages.items()] == [
    ("reader", "text_to_semantic"),
    ("painter", "masked"),
  ]
  assert bundle.cascade.missing() == {"source.text"}


def texts(*rows):
  return [Clip(None, given={"source.text": np.array(row, np.int32)}) for row in rows]


def test_text_is_made_into_codes_until_the_end_token(bundle):
  clips = texts([1, 5, 2], [7, 0, 3, 3, 6], [4, 1])
  made = bundle.cascade.sample(clips, seed=3, num_samples=2, options=OPTIONS)
  lengths = [len(row) for row in made.semantic]
  assert [len(codes) for codes in made.codes] == [2 * length for length in lengths]
  assert len(set(lengths)) > 1 and min(lengths) > 0
  assert set(made.streams) == {"semantic", "codes"}
  assert {"reader", "painter"} >= set(made.timings)
  for codes in made.codes:
    assert codes.shape[1] == 4 and 0 <= codes.min() <= codes.max() < 16
  for row, clip in enumerate(clips):
    alone = bundle.cascade.sample([clip], seed=3, num_samples=2, options=OPTIONS)
    for sample in range(2):
      for key, rows in alone.streams.items():
        np.testing.assert_array_equal(rows[sample], made.streams[key][2 * row + sample])


def test_a_stream_gives_what_a_sample_gives_in_several_pieces(bundle):
  (clip,) = texts([7, 0, 3, 3, 6])
  whole = bundle.cascade.sample([clip], seed=5, options=OPTIONS)
  pieces, reports = [], []
  stream = bundle.cascade.stream(
    clip, seed=5, options=OPTIONS, progress=lambda *report: reports.append(report)
  )
  while True:
    try:
      pieces.append(next(stream))
    except StopIteration as end:
      result = end.value
      break
  np.testing.assert_array_equal(np.concatenate(pieces), whole.codes[0])
  np.testing.assert_array_equal(result.semantic[0], whole.semantic[0])
  assert len(whole.codes[0]) <= MaskedSpec("x").frames or len(pieces) > 1


def test_a_prompt_is_a_prefix_and_a_length_ends_earlier_than_the_end_token(bundle):
  rng = np.random.default_rng(0)
  prompt = {"semantic": rng.integers(0, 16, 4), "codes": rng.integers(0, 16, (8, 4))}
  clip = Clip(14, prompt, {"source.text": np.array([1, 5, 2, 6, 0, 3])})
  made = bundle.cascade.sample([clip], options=OPTIONS)
  assert len(made.codes[0]) <= 14
  np.testing.assert_array_equal(made.codes[0][:8], prompt["codes"])
  np.testing.assert_array_equal(made.semantic[0][:4], prompt["semantic"])


def test_semantic_tokens_that_are_given_need_no_text(bundle):
  clip = Clip(None, given={"semantic": np.arange(15) % 16})
  made = bundle.cascade.sample([clip], options=OPTIONS)
  assert made.codes[0].shape == (30, 4)


def test_errors_name_what_is_missing(bundle, store):
  with pytest.raises(ConfigError, match=r"read source\.text, which no stage writes"):
    bundle.cascade.sample([Clip(20)])
  other = dataclasses.replace(SPECS["reader"], num_characters=9)
  with pytest.raises(DataError, match=r"vocabulary of 9 in source.text, its tokens have 8"):
    InMemoryTokens(store, other)()
  with pytest.raises(ConfigError, match="no stage is of the kind 'dance'; the kinds are auto"):
    registry.spec_class({"kind": "dance"})
