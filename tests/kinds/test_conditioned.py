"""A text stage goes the whole way: pairs, training, export, and speech with the right tokens."""

import dataclasses

import jax
import numpy as np
import pytest

from audiolm_jax.bundles import load_bundle, save_bundle
from audiolm_jax.core.errors import ConfigError, DataError
from audiolm_jax.core.streams import SEMANTIC, TEXT
from audiolm_jax.data import in_memory
from audiolm_jax.data.datasets import InMemoryTokens
from audiolm_jax.data.token_shards import TokenClip
from audiolm_jax.data.token_store import TokenStoreWriter, read_info
from audiolm_jax.lm import text
from audiolm_jax.lm.conditioned import ConditionedConfig, text_stage
from audiolm_jax.lm.config import Positions, TransformerConfig
from audiolm_jax.lm.tokens import collapse_repeats
from audiolm_jax.sampling.cascade import CascadeOptions, Clip
from audiolm_jax.sampling.logits import SamplingOptions
from audiolm_jax.trainables import run
from audiolm_jax.trainables.registry import load_inference_params
from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig
from audiolm_jax.training import trainer
from audiolm_jax.training.optimizers import OptimizerConfig
from tests.kinds.stopping import stopped_at

SPEC = text_stage(num_clusters=16, longest_seconds=1.0, longest_source=16)
PRETRAINING = dataclasses.replace(SPEC, source="nothing")
CONFIG = ConditionedConfig(
  TransformerConfig(
    num_layers=1, dim=32, num_heads=2, mlp_dim=64, positions=Positions.ROTARY,
    dropout_rate=0.0,
  ),
  encoder_layers=1,
  label_smoothing=0.0,
)  # fmt: skip
ADAM = OptimizerConfig(name="adam", learning_rate=1e-2)
RNG = np.random.default_rng(0)
SENTENCES = {
  words: RNG.integers(0, 16, count)
  for words, count in (("One.", 7), ("Go on, now!", 18), ("Go", 4), ("It's five.", 12))
}
STEPS = 120


@pytest.fixture(scope="module")
def store(miniature_bundle, tmp_path_factory):
  folder = tmp_path_factory.mktemp("tokens")
  writer = TokenStoreWriter(
    folder, miniature_bundle.token_hash, streams=miniature_bundle.streams.values()
  )
  clips = [*SENTENCES.items(), ("", np.arange(5)), ("So long", np.zeros(26, int))]
  for index, (words, semantic) in enumerate(clips):
    for split in ("train", "valid"):
      codes = np.repeat(semantic, 2)[:, None] % 13 + np.arange(4)
      record = {SEMANTIC: semantic, "codes": codes, TEXT.key: text.code_points(words)}
      seconds = len(semantic) / 25
      writer.add(TokenClip(f"{split}{index}", record, split, seconds=seconds))
  writer.finish()
  return str(folder)


def trainable(spec=SPEC, config=CONFIG, optimizer=ADAM):
  return StageTrainable(StageTrainingConfig(spec, config, optimizer))


def train(store, folder, steps, spec=SPEC, stop_at=None):
  data = InMemoryTokens(store, spec, batch_size=4)

  config = trainer.TrainConfig(
    folder, total_steps=steps, log_period=40, eval_period=steps, products="float32",
    tensorboard=False,
  )  # fmt: skip
  return trainer.train(
    config,
    model=trainable(spec),
    train_dataset=data if stop_at is None else stopped_at(data, stop_at),
    eval_dataset=dataclasses.replace(data, split="valid", num_epochs=1),
  )


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
  """A run that was stopped and resumed."""
  folder = tmp_path_factory.mktemp("run") / "text"
  halted = train(store, folder, STEPS, stop_at=9)
  assert not halted.finished and 0 < halted.step < STEPS
  assert train(store, folder, STEPS).finished
  return folder


@pytest.fixture(scope="module")
def bundle(miniature_bundle, store, trained, tmp_path_factory):
  """What export_bundle adds to a bundle that has no text stage."""
  from audiolm_jax import export_bundle

  folder = tmp_path_factory.mktemp("bundles")
  base = save_bundle(miniature_bundle, folder / "base")
  export_bundle.FLAGS.unparse_flags()
  export_bundle.FLAGS(
    ["export_bundle", f"--bundle={base}", f"--token_store={store}",
     f"--output={folder / 'speaking'}", f"--stage_dir=text={trained}"]
  )  # fmt: skip
  export_bundle.main([])
  for flag in export_bundle.FLAGS:
    export_bundle.FLAGS[flag].unparse()
  return load_bundle(folder / "speaking")


GREEDY = CascadeOptions({"text": SamplingOptions(0.0)})


def test_the_trained_sentences_are_spoken_with_their_tokens_and_end(bundle):
  assert list(bundle.stages) == ["semantic", "text", "coarse", "fine"]
  clips = [Clip(None, given={TEXT.key: text.code_points(words)}) for words in SENTENCES]
  made = bundle.text_cascade.sample(clips, options=GREEDY)
  for found, wanted in zip(made.semantic, SENTENCES.values(), strict=True):
    np.testing.assert_array_equal(found, wanted)
  assert (made.scores["text"] > -0.2).all()
  spoken = bundle.speak("Go on, now! One.", temperature={"text": 0.0})
  wanted = np.concatenate([SENTENCES["Go on, now!"], SENTENCES["One."]])
  np.testing.assert_array_equal(spoken.tokens.semantic, collapse_repeats(wanted))
  assert len(spoken.waveform) == len(wanted) * 640


def test_a_stopped_run_has_the_parameters_of_one_that_was_not(store, trained, tmp_path):
  train(store, tmp_path / "whole", STEPS)
  jax.tree.map(
    np.testing.assert_array_equal,
    load_inference_params(trained)[2],
    load_inference_params(tmp_path / "whole")[2],
  )


def test_clips_without_texts_and_long_ones_are_left_out_and_reported(store):
  data = in_memory.InMemoryTokenBatches(store, SPEC, batch_size=2)
  assert data.clip_ids == [f"train{index}" for index in range(4)]
  report = data.skip_report()
  assert "2 of 6 clips skipped" in report
  assert "train4 (no source.text tokens)" in report and "train5 (longer than 1 s)" in report
  assert len(in_memory.InMemoryTokenBatches(store, PRETRAINING, batch_size=2).clip_ids) == 5
  assert read_info(store).streams[TEXT.key] == TEXT
  with pytest.raises(DataError, match=r"no clip of .* can be used for the text stage: 6 of 6"):
    in_memory.InMemoryTokenBatches(
      store, dataclasses.replace(SPEC, longest_seconds=0.1), batch_size=2
    )


def test_seqio_tasks_make_the_examples_that_the_stage_builds(store):
  pytest.importorskip("seqio")
  import seqio

  from audiolm_jax.data import registration

  registration.register_audio_tasks("pairs", store, stage_specs={"text": SPEC})
  reader = in_memory.InMemoryTokenBatches(store, SPEC, "valid", batch_size=1)
  task = seqio.get_mixture_or_task("pairs_text_stage")
  found = list(task.get_dataset(None, split="valid", shuffle=False, seed=1).as_numpy_iterator())
  assert [example["id"].decode() for example in found] == reader.clip_ids
  for example in found:
    expected = reader.example(example["id"].decode(), tuple(example["seed"]))
    for feature, value in expected.items():
      np.testing.assert_array_equal(example[feature], value)


def test_a_run_starts_from_the_parameters_of_its_pretraining(store, trained, tmp_path):
  train(store, tmp_path / "denoising", 2, PRETRAINING)
  wanted = load_inference_params(tmp_path / "denoising")[2]
  part = dataclasses.replace(CONFIG, trained_encoder_layers=1)
  found = run.params_of_run(trainable(config=part), tmp_path / "denoising")
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  other = dataclasses.replace(SPEC, num_clusters=17)
  with pytest.raises(ConfigError, match="num_clusters was 16, is 17"):
    run.params_of_run(trainable(other), trained)
  wide = dataclasses.replace(
    CONFIG, transformer=dataclasses.replace(CONFIG.transformer, mlp_dim=32)
  )
  with pytest.raises(ConfigError, match="mlp_dim was 64, is 32"):
    run.params_of_run(trainable(config=wide), trained)
  with pytest.raises(ConfigError, match="a run of 'text_stage', this one trains 'words_stage'"):
    run.params_of_run(trainable(dataclasses.replace(SPEC, name="words")), trained)
  with pytest.raises(ConfigError, match="INITIAL_BUNDLE and INITIAL_RUN are both set"):
    run.train(
      model=trainable(), config=trainer.TrainConfig(str(tmp_path), 1), initial_bundle="a",
      initial_run="b", train_dataset=InMemoryTokens(store, SPEC),
    )  # fmt: skip


def test_frozen_layers_need_an_optimizer_without_weight_decay():
  part = dataclasses.replace(CONFIG, trained_encoder_layers=1)
  decay = dataclasses.replace(ADAM, name="adamw", weight_decay=0.1)
  with pytest.raises(ConfigError, match=r"weight_decay 0.1 would change the frozen layers"):
    trainable(config=part, optimizer=decay)
  trainable(config=part)
