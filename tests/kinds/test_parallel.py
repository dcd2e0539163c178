"""The parallel stage from tokens to sound: training, export, resynthesis and streams."""

import dataclasses

import numpy as np
import pytest

from audiolm_jax.bundles import load_bundle, save_bundle
from audiolm_jax.core.errors import BundleError, ConfigError, DataError, UserError
from audiolm_jax.core.streams import CODES, SEMANTIC
from audiolm_jax.data.datasets import InMemoryTokens
from audiolm_jax.data.token_shards import TokenClip
from audiolm_jax.data.token_store import TokenStoreWriter
from audiolm_jax.lm.config import Positions, TransformerConfig
from audiolm_jax.lm.parallel import FillingConfig, ParallelConfig, parallel_stage
from audiolm_jax.trainables import run
from audiolm_jax.trainables.stage import StageTrainable, StageTrainingConfig
from audiolm_jax.training import trainer
from audiolm_jax.training.optimizers import OptimizerConfig
from tests.conftest import melody

RATE = 16_000
SPEC = parallel_stage(num_quantizers=4, codebook_size=16, num_clusters=16, crop_seconds=0.8)
LAYERS = TransformerConfig(
  num_layers=1, dim=16, num_heads=2, mlp_dim=32, positions=Positions.ROTARY, dropout_rate=0.0
)
CONFIG = ParallelConfig(
  LAYERS, kernel_size=3, latent_dim=8, filling=FillingConfig(passes=(2, 1, 0, 0))
)
OPTIMIZER = OptimizerConfig(name="adamw", learning_rate=2e-2, weight_decay=0.1)


def train(store, folder, **keywords):
  data = InMemoryTokens(store, SPEC, batch_size=8)
  return run.train(
    model=StageTrainable(StageTrainingConfig(SPEC, CONFIG, OPTIMIZER, ema_decay=0.5)),
    config=trainer.TrainConfig(
      str(folder), total_steps=40, log_period=10, eval_period=40, products="float32",
      tensorboard=False,
    ),
    train_dataset=data,
    eval_dataset=dataclasses.replace(data, split="valid", num_epochs=1),
    **keywords,
  )  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers(miniature_bundle, tmp_path_factory):
  bare = dataclasses.replace(miniature_bundle, stages={}, semantic_rate=None, temperatures={})
  return save_bundle(bare, tmp_path_factory.mktemp("bundles") / "tokenizers")


@pytest.fixture(scope="module")
def store(miniature_bundle, tmp_path_factory):
  """Codes that follow from the semantic tokens."""
  folder = tmp_path_factory.mktemp("tokens")
  streams = miniature_bundle.streams.values()
  writer = TokenStoreWriter(folder, miniature_bundle.token_hash, streams=streams)
  rng = np.random.default_rng(0)
  for i in range(24):
    semantic = np.repeat(rng.integers(0, 16, 10), 3)
    codes = (np.repeat(semantic, 2)[:, None] + np.arange(4)) % 16
    split = "valid" if i < 2 else "train"
    writer.add(TokenClip(str(i), {SEMANTIC: semantic, CODES: codes}, split, seconds=1.2))
  writer.finish()
  return str(folder)


@pytest.fixture(scope="module")
def trained(tokenizers, store, tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs") / "parallel"
  return folder, train(store, folder, tokenizers=tokenizers)


@pytest.fixture(scope="module")
def folder(tokenizers, store, trained, tmp_path_factory):
  from audiolm_jax import export_bundle

  folder = tmp_path_factory.mktemp("exported") / "mine"
  export_bundle.FLAGS.unparse_flags()
  arguments = [f"--bundle={tokenizers}", f"--token_store={store}", f"--output={folder}"]
  arguments += [f"--stage_dir=parallel={trained[0]}", "--storage=int8"]
  export_bundle.FLAGS(["export_bundle", *arguments])
  export_bundle.main([])
  for flag in export_bundle.FLAGS:
    export_bundle.FLAGS[flag].unparse()
  return folder


@pytest.fixture(scope="module")
def bundle(folder):
  return load_bundle(folder)


def test_training_learns_the_codes_with_the_codebooks_of_their_codec(trained, store, tmp_path):
  result = trained[1].eval_metrics
  assert result["loss"] < 0.8 * np.log(16)
  assert {f"loss_quantizer_{q}" for q in range(4)} | {"point_error"} <= set(result)
  with pytest.raises(ConfigError, match="set BUNDLE"):
    train(store, tmp_path / "other")
  with pytest.raises(DataError, match="of other tokenizers"):
    train(store, tmp_path / "other", tokenizers="speech")


def test_a_bundle_stores_the_codebooks_once(folder, bundle, trained, tmp_path):
  stage = bundle.stages["parallel"]
  np.testing.assert_array_equal(stage.params["codebooks"], bundle.codec.codebooks)
  stored = (folder / "parallel_stage.safetensors").read_bytes()
  assert b"code_embedding" in stored and b'"codebooks"' not in stored
  other = stage.params | {"codebooks": stage.params["codebooks"] + np.float32(1e-3)}
  wrong = dataclasses.replace(stage, params=other)
  with pytest.raises(BundleError, match="codebooks of another codec"):
    save_bundle(dataclasses.replace(bundle, stages={"parallel": wrong}), tmp_path / "wrong")


def test_the_settings_of_sampling_can_be_replaced_in_an_export(
  bundle, folder, store, trained, run_cli, tmp_path
):
  base = (f"--bundle={folder}", f"--output={tmp_path / 'tuned'}")
  done = run_cli("export_bundle", *base, '--filling={"passes": [4, 1], "temperatures": [0.9, 0]}')
  assert done.code == 0, done.err
  tuned = load_bundle(tmp_path / "tuned").stages["parallel"].config
  before = bundle.stages["parallel"].config
  filling = dataclasses.replace(before.filling, passes=(4, 1), temperatures=(0.9, 0.0))
  assert tuned == dataclasses.replace(before, filling=filling)
  further = (f"--bundle={tmp_path / 'tuned'}", f"--output={tmp_path / 'further'}")
  stage = (f"--token_store={store}", f"--stage_dir=parallel={trained[0]}")
  done = run_cli("export_bundle", *further, *stage)
  assert done.code == 0, done.err
  assert load_bundle(tmp_path / "further").stages["parallel"].config.filling == filling
  for values, words in (
    ("[8]", "--filling must hold one JSON object"),
    ('{"steps": 3}', "FillingConfig has no field 'steps'"),
    ('{"passes": [0]}', "the first level needs at least 1"),
    ('{"passes": [4, 1, 1, 1, 1]}', "passes has 5 numbers for 4 levels"),
    ('{"temperatures": [-1]}', "give one or more factors from 0 on"),
  ):
    done = run_cli("export_bundle", *base, f"--filling={values}")
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done.err


def test_resynthesis_has_the_voice_as_a_prompt_and_the_length_of_the_content(bundle):
  content, voice = melody(1.3, seed=1)[:20_001], melody(1.0, seed=2)
  result = bundle.continue_audio(
    content, RATE, mode="resynthesis", voice=voice, prompt_seconds=0.7, seed=4
  )
  assert result.waveform.shape == content.shape and result.prompt_samples == 0
  voice_tokens = bundle.encode(voice[: 17 * 640], RATE)
  np.testing.assert_array_equal(result.tokens.codes[:34], voice_tokens.codes)
  np.testing.assert_array_equal(result.tokens.semantic[:17], voice_tokens.semantic)
  assert len(result.tokens.codes) == 34 + 63
  decoded = bundle.decode(result.tokens.codes)[17 * 640 :][: len(content)]
  np.testing.assert_allclose(result.waveform, decoded, atol=1e-6)
  settings = {"mode": "resynthesis", "voice": voice, "prompt_seconds": 0.7, "seed": 4}
  pieces = list(bundle.stream(content, RATE, **settings))
  np.testing.assert_allclose(np.concatenate(pieces), result.waveform, atol=1e-5)
  assert len(pieces) > 1
  with pytest.raises(UserError, match="takes no voice"):
    bundle.continue_audio(content, RATE, duration=1.0, voice=voice)


def test_the_command_takes_a_voice_and_passes(folder, bundle, run_cli, tmp_path):
  import soundfile

  content, voice = melody(0.9, seed=1), melody(0.8, seed=2)
  for name, sound in (("content", content), ("voice", voice)):
    soundfile.write(tmp_path / f"{name}.wav", sound, RATE, subtype="FLOAT")
  arguments = [f"--bundle={folder}", f"--prompt={tmp_path / 'content.wav'}"]
  arguments += [f"--voice={tmp_path / 'voice.wav'}", f"--output={tmp_path / 'out.wav'}"]
  done = run_cli("sample", *arguments, "--mode=resynthesis", "--passes=parallel=point")
  assert done.code == 0, done.err
  found, _ = soundfile.read(tmp_path / "out.wav")
  expected = bundle.continue_audio(
    content, RATE, mode="resynthesis", voice=voice, passes={"parallel": ()}
  )
  np.testing.assert_allclose(found, expected.waveform, atol=1e-4)
  refused = run_cli("sample", *arguments)
  assert (
    refused.code == 2 and "--voice is for --text, --source and --mode resynthesis" in refused.err
  )
