"""The registered corpora, with a real bundle."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

seqio = pytest.importorskip("seqio")

from audiolm_jax import bundles  # noqa: E402
from audiolm_jax.core.errors import DataError  # noqa: E402
from audiolm_jax.data import token_store, tokenization  # noqa: E402
from audiolm_jax.data.in_memory import InMemoryTokenBatches  # noqa: E402
from audiolm_jax.data.seqio_batches import SeqioBatches  # noqa: E402
from audiolm_jax.lm import stages  # noqa: E402
from tests.conftest import MINIATURE_CODEC  # noqa: E402

ROOT = Path(__file__).parents[2]
SUFFIXES = ["waveform", "tokens", "semantic_stage", "coarse_stage"]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
  """Six stereo clips at 22 kHz in folders `train` and `valid`."""
  folder = tmp_path_factory.mktemp("recordings")
  rng = np.random.default_rng(0)
  for i in range(6):
    split = "valid" if i > 3 else "train"
    (folder / split).mkdir(exist_ok=True)
    noise = 0.1 * rng.standard_normal((22_050 * (1 + i % 2), 2))  # few lengths compile fast
    soundfile.write(folder / split / f"{i}.flac", noise, 22_050)
  return folder


@pytest.fixture(scope="module")
def bundle_dir(miniature_bundle, tmp_path_factory):
  return bundles.save_bundle(miniature_bundle, tmp_path_factory.mktemp("bundles") / "mini")


@pytest.fixture(scope="module")
def environment(recordings, bundle_dir):
  """Variables for a folder as speech and piano, and `tasks` importable."""
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT))
    patch.setenv("AUDIOLM_SPEECH_DIR", str(recordings))
    patch.setenv("AUDIOLM_PIANO_DIR", str(recordings))
    patch.setenv("AUDIOLM_BUNDLE", str(bundle_dir))
    patch.delenv("AUDIOLM_AUDIO_DIR", raising=False)
    yield importlib.import_module("tasks.mixtures")


@pytest.mark.parametrize(
  ("config", "smaller"),
  [
    pytest.param(
      "codec_tiny",
      [*MINIATURE_CODEC, "generator/optimizers.OptimizerConfig.warmup_steps=1"],
      marks=pytest.mark.slow,
    ),
    (
      "coarse_stage_tiny",
      [
        "BUNDLE='{bundle}'",
        "NUM_COARSE_QUANTIZERS=2",
        "CROP_SECONDS=1.0",
        "WARMUP_STEPS=1",
        "transformer.TransformerConfig.num_layers=1",
        "transformer.TransformerConfig.dim=16",
        "transformer.TransformerConfig.mlp_dim=16",
      ],
    ),
  ],
)
def test_the_train_command_reads_a_folder_through_seqio(
  config, smaller, recordings, bundle_dir, tmp_path
):
  settings = [
    f"AUDIO_DIR='{recordings}'",
    f"MODEL_DIR='{tmp_path / 'run'}'",
    "BATCH_SIZE=4",  # more than the clips held out: the last batch is filled up
    "TRAIN_STEPS=3",
    "LOG_PERIOD=1",
    *(binding.format(bundle=bundle_dir) for binding in smaller),
  ]
  files = [f"gin_configs/{config}.gin", "gin_configs/runs/audio_folder.gin"]
  done = subprocess.run(
    [sys.executable, "-m", "audiolm_jax.train"]
    + [f"--gin_file={file}" for file in files]
    + [f"--gin.{setting}" for setting in settings],
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr
  assert "3/3" in done.stderr and "step 3, held-out: loss" in done.stderr


def test_variables_register_speech_piano_and_their_mixtures(environment):
  for corpus in ("speech", "piano"):
    assert {f"{corpus}_{suffix}" for suffix in SUFFIXES} <= seqio.TaskRegistry.names()
  assert {f"speech_and_piano_{suffix}" for suffix in SUFFIXES} <= seqio.MixtureRegistry.names()
  batch = next(SeqioBatches("speech_and_piano_waveform", {"waveform": 4000}, batch_size=4))
  assert batch["waveform"].shape == (4, 4000)


def test_tokens_of_a_task_equal_those_of_a_token_store(
  environment, miniature_bundle, recordings, tmp_path
):
  tokenization.tokenize_corpus(miniature_bundle, recordings, tmp_path, progress=False)
  specs = stages.paper_stages(
    semantic_rate=25.0, num_clusters=16, frame_rate=50.0, num_quantizers=4, codebook_size=16
  )
  reader = InMemoryTokenBatches(
    tmp_path, specs["coarse"], batch_size=1, token_hash=miniature_bundle.token_hash
  )
  task = seqio.get_mixture_or_task("speech_coarse_stage")
  found = list(task.get_dataset(None, split="train", shuffle=False, seed=0).as_numpy_iterator())
  assert len(found) == 4
  for example in found:
    expected = reader.example(example["id"].decode(), tuple(example["seed"]))
    assert expected.keys() == specs["coarse"].features().keys()
    for name, value in expected.items():
      np.testing.assert_array_equal(example[name], value)


@pytest.mark.parametrize("task", ["speech_waveform", "speech_tokens"])
def test_beam_makes_the_store_of_a_folder_from_its_task(
  task, environment, miniature_bundle, bundle_dir, recordings, tmp_path
):
  beam_tokenization = pytest.importorskip("audiolm_jax.data.beam_tokenization")
  job = beam_tokenization.TokenizationJob(
    str(bundle_dir), str(tmp_path / "a"), task=task, module="tasks.speech", clips_per_shard=3
  )
  done = beam_tokenization.tokenize_corpus(job, "DirectRunner")
  assert (
    done.info.clips == {"train": 4, "valid": 2} and sorted(done.info.shards.values()) == [2] * 3
  )
  again = beam_tokenization.tokenize_corpus(job, "DirectRunner")
  assert again.info.complete and again.seconds_of_audio == 0
  tokenization.tokenize_corpus(miniature_bundle, recordings, tmp_path / "b", progress=False)
  stores = [token_store.TokenStore(tmp_path / name).clips() for name in "ab"]
  for one, other in zip(*stores, strict=True):
    assert (one.split, one.seconds) == (other.split, other.seconds)
    assert one.id == other.id
    assert one.streams.keys() == other.streams.keys() == {"semantic", "codes"}
    for key, tokens in one.streams.items():
      np.testing.assert_array_equal(tokens, other.streams[key])


def test_a_task_that_cannot_be_tokenized_is_refused_in_words(environment, bundle_dir, tmp_path):
  audio_shards = importlib.import_module("audiolm_jax.data.audio_shards")
  for module, task, words in (
    ("no.such", "speech_waveform", "--module no.such cannot be imported"),
    ("tasks.speech", "speech_wave", "registers no task 'speech_wave'; registered are: "),
  ):
    with pytest.raises(DataError, match=words):
      next(audio_shards.shards_of_task(module, task, 16_000, 3))
  with pytest.raises(DataError, match="is read at 16000 Hz, the tokenizers need 24000 Hz"):
    next(audio_shards.shards_of_task("tasks.speech", "speech_waveform", 24_000, 3))


def test_gin_binds_the_folder_and_gets_the_tasks_name(environment, recordings):
  import gin

  with gin.unlock_config():
    gin.parse_config(
      f"""
      from __gin__ import dynamic_registration
      from tasks import audio_folder
      MIXTURE_OR_TASK_NAME = @audio_folder.register()
      audio_folder.register.audio_dir = "{recordings}"
      audio_folder.register.task = "waveform"
      """
    )
    try:
      name = gin.get_configurable("gin.macro")
      with gin.config_scope("MIXTURE_OR_TASK_NAME"):
        assert name() == "audio_folder_waveform"
    finally:
      gin.clear_config()
  assert "audio_folder_waveform" in seqio.TaskRegistry.names()


def test_a_stage_without_a_bundle_is_refused_in_words(environment, recordings):
  audio_folder = importlib.import_module("tasks.audio_folder")
  with pytest.raises(DataError, match="the stages need a bundle"):
    audio_folder.register(str(recordings), task="coarse_stage")


@pytest.mark.slow
def test_the_command_seqio_cache_tasks_caches_a_folder(recordings, bundle_dir, tmp_path):
  variables = {
    "AUDIOLM_AUDIO_DIR": str(recordings),
    "AUDIOLM_BUNDLE": str(bundle_dir),
    "PYTHONPATH": str(ROOT),
  }
  command = [
    Path(sys.executable).parent / "seqio_cache_tasks",
    "--module_import=tasks.audio_folder",
    "--tasks=audio_folder_tokens,audio_folder_waveform",
    f"--output_cache_dir={tmp_path}",
    "--min_shards=2",
  ]
  done = subprocess.run(
    command, env=os.environ | variables, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr[-3000:]
  for name in ("audio_folder_tokens", "audio_folder_waveform"):
    assert (tmp_path / name / "COMPLETED").exists()
