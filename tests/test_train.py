"""The train command: gin files, macros and error messages."""

import getpass
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from audiolm_jax import train
from audiolm_jax.bundles import save_bundle
from audiolm_jax.codec import frame_rate, soundstream
from audiolm_jax.core import command_line, configs, shapes
from audiolm_jax.core.errors import ConfigError
from audiolm_jax.core.streams import Role, Stream
from audiolm_jax.data import token_shards, token_store
from audiolm_jax.detection import classifier
from audiolm_jax.lm import stages, text
from audiolm_jax.trainables import registry
from audiolm_jax.trainables.codec import CodecTrainingConfig
from audiolm_jax.training import run_lock
from audiolm_jax.training.partitioning import unbox

REPO = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "gin"
RUNNABLE = sorted(path.stem for path in (REPO / "gin_configs").glob("*.gin"))
PLACE = ["--coordinator_address=localhost:1"]
BUCKET = ["--gin.MODEL_DIR='gs://b/run'", "--gin.MIXTURE_OR_TASK_NAME='speech'"]
REQUIRED = ["MODEL_DIR = 'runs/test'", "MIXTURE_OR_TASK_NAME = 'some_task'"]


def required(name):
  """Returns bindings for the settings that a runnable file requires."""
  return [*REQUIRED, "AUDIO_DIR = 'm.jsonl'"] if name.startswith("detector") else REQUIRED


def resolve(*names, bindings=()):
  files = [f"gin_configs/{name}.gin" for name in names]
  return train.resolve(files, bindings)


def test_every_model_has_a_base_and_a_tiny_file():
  expected = {
    f"{x}_{s}"
    for x in ("codec", "semantic_stage", "coarse_stage", "fine_stage", "detector")
    for s in ("base", "tiny")
  }
  expected |= {f"semantic_encoder_{size}" for size in ("xl", "small", "tiny")}
  expected |= {f"parallel_stage_{size}" for size in ("base", "small", "tiny")}
  expected |= {
    f"{x}_stage_{s}" for x in ("text", "speech", "transcript") for s in ("base", "small", "tiny")
  }
  expected |= {"codec_small", "units_small", "semantic_stage_small"}
  assert expected | {"codec_piano", "coarse_stage_piano"} <= set(RUNNABLE)


@pytest.mark.parametrize("name", RUNNABLE)
def test_a_runnable_file_resolves_and_its_model_initialises_abstractly(name):
  settings, _ = resolve(name, bindings=required(name))
  model = settings["model"]
  batch = settings["train_dataset"].batch_shapes()
  boxed = jax.eval_shape(model.init, jax.random.key(0), batch)
  assert unbox(boxed).step.shape == ()
  module, trainable, config = registry.home_of(model.component)  # pyright: ignore[reportGeneralTypeIssues]: it is not None
  assert type(model).__name__ == trainable and type(model.config).__name__ == config
  assert type(model).__module__ == module
  plain = json.loads(json.dumps(configs.to_dict(model.config)))
  assert configs.from_dict(type(model.config), plain) == model.config


@pytest.mark.parametrize("name", [name for name in RUNNABLE if "_stage_" in name])
def test_the_task_of_a_stage_has_the_stages_examples(name):
  settings, _ = resolve(name, bindings=REQUIRED)
  spec = settings["model"].config.spec
  assert settings["train_dataset"].spec == settings["eval_dataset"].spec == spec


@pytest.mark.parametrize("name", RUNNABLE)
def test_resolved_configurations_are_the_golden_ones(name):
  settings, text = resolve(name, bindings=required(name))
  config = json.dumps(configs.to_dict(settings["model"].config), indent=1)
  found = f"{text}\n# Model configuration:\n{config}\n"
  path = GOLDEN / f"{name}.txt"
  if os.environ.get("UPDATE_GOLDEN"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(found)
  assert found == path.read_text(), "a default changed; rerun with UPDATE_GOLDEN=1 if intended"


def test_the_small_text_stage_has_at_most_ten_million_parameters():
  config = resolve("text_stage_small", bindings=REQUIRED)[0]["model"].config
  sizes = shapes.flat(config.spec.parameter_shapes(config.transformer)).values()
  assert 9e6 < sum(map(math.prod, sizes)) <= 10e6


def test_the_written_configuration_resolves_to_the_same(tmp_path):
  settings, text = resolve("coarse_stage_tiny", bindings=[*REQUIRED, "TRAIN_STEPS = 321"])
  (tmp_path / "config.gin").write_text(text)
  again, text_again = train.resolve([str(tmp_path / "config.gin")])
  assert text_again == text
  assert again["config"].total_steps == 321
  assert again["model"].config == settings["model"].config
  assert again["train_dataset"] == settings["train_dataset"]


def test_gin_and_python_have_the_same_defaults():
  settings, _ = resolve("codec_base", bindings=REQUIRED)
  assert type(settings["model"].config) is CodecTrainingConfig
  defaults = CodecTrainingConfig()
  assert settings["model"].config.model == defaults.model
  assert settings["model"].config.generator_optimizer == defaults.generator_optimizer


@pytest.mark.parametrize(
  ("name", "config"),
  [
    ("codec_base", soundstream.SoundStreamConfig()),
    ("codec_small", frame_rate.FrameRateConfig()),
  ],
)
def test_the_codecs_of_gin_and_python_have_the_same_shape(name, config):
  settings, _ = resolve(name, bindings=REQUIRED)
  assert settings["model"].config.model == config


@pytest.mark.parametrize(
  ("size", "config"),
  [
    ("base", classifier.ClassifierConfig(dtype="bfloat16")),
    ("tiny", classifier.tiny_config()),
  ],
)
def test_the_detectors_of_gin_and_python_have_the_same_shape(size, config):
  settings, _ = resolve(f"detector_{size}", bindings=required("detector"))
  assert settings["model"].config.classifier == config
  assert settings["train_dataset"].labels == ("real", "synthetic")


def test_the_piano_stages_of_gin_and_python_are_equal():
  settings, _ = resolve("coarse_stage_piano", bindings=REQUIRED)
  assert (
    settings["model"].config.spec
    == stages.paper_stages(num_quantizers=3, codebook_size=2**14)["coarse"]
  )


def test_macros_set_their_parameters():
  bindings = [
    *REQUIRED,
    "NUM_QUANTIZERS = 3",
    "CODEBOOK_SIZE = 16384",
    "BATCH_SIZE = 7",
    "RANDOM_SEED = 5",
    "EVAL_PERIOD = 11",
    "USE_CACHED_TASKS = True",
  ]
  settings, _ = resolve("codec_base", bindings=bindings)
  model = settings["model"].config.model
  assert (model.num_quantizers, model.codebook_size) == (3, 16384)
  assert settings["config"].random_seed == 5 and settings["config"].eval_period == 11
  data = settings["train_dataset"]
  assert (data.batch_size, data.seed, data.use_cached) == (7, 5, True)
  assert settings["eval_dataset"].seed == 0 and settings["eval_dataset"].num_epochs == 1


def test_a_later_file_replaces_the_data():
  settings, _ = resolve(
    "codec_tiny", "runs/audio_in_memory", bindings=["MODEL_DIR = 'm'", "AUDIO_DIR = 'sounds'"]
  )
  data = settings["train_dataset"]
  assert (data.source, data.split, data.batch_size) == ("sounds", "train", 8)
  assert settings["eval_dataset"].num_epochs == 1


STREAMS = [
  Stream("semantic", 8, 20.0),
  Stream("codes", 12, 40.0, levels=6),
  Stream("text", 0x110000, role=Role.SOURCE),
  Stream("semantic", 8, 20.0, role=Role.SOURCE),
]


@pytest.fixture(scope="module")
def described_tokens(tmp_path_factory):
  """A store with texts and sources: 8 clusters of 20 Hz, 6 levels of 12 codes of 40 Hz."""
  folder = tmp_path_factory.mktemp("described") / "tokens"
  random = np.random.default_rng(0)
  writer = token_store.TokenStoreWriter(folder, "hash", streams=STREAMS)
  for i in range(6):
    streams = {
      "semantic": random.integers(0, 8, 60),
      "codes": random.integers(0, 12, (120, 6)),
      "source.text": text.code_points(f"tune {i}"),
      "source.semantic": random.integers(0, 8, 40),
    }
    writer.add(token_shards.TokenClip(str(i), streams, split="train", seconds=3.0))
  writer.finish()
  return folder


def on_tokens(name, folder, *bindings):
  given = ["MODEL_DIR = 'm'", f"TOKENS_DIR = '{folder}'", "BATCH_SIZE = 2", *bindings]
  return resolve(name, "runs/tokens_in_memory", bindings=given)[0]


TOKEN_NUMBERS = {
  "semantic_stage_tiny": {},
  "coarse_stage_tiny": {"num_source_quantizers": 0, "num_target_quantizers": 4},
  "coarse_stage_small": {"num_source_quantizers": 0, "num_target_quantizers": 4},
  "acoustic_only_tiny": {"num_source_quantizers": 0, "num_target_quantizers": 4},
  "fine_stage_tiny": {"num_source_quantizers": 4, "num_target_quantizers": 2},
  "fine_stage_small": {"num_source_quantizers": 4, "num_target_quantizers": 2},
  "parallel_stage_tiny": {"num_quantizers": 6},
  "text_stage_tiny": {},
  "speech_stage_tiny": {"source_rate": None, "source_clusters": None},
  "transcript_stage_tiny": {},
}


@pytest.mark.parametrize("name", TOKEN_NUMBERS)
def test_the_numbers_of_a_stage_follow_from_the_token_store(name, described_tokens):
  settings = on_tokens(name, described_tokens)
  model, dataset = settings["model"], settings["train_dataset"]
  spec = model.config.spec
  assert dataset.spec == settings["eval_dataset"].spec == spec
  expected = TOKEN_NUMBERS[name] | {"num_clusters": 8, "semantic_rate": 20.0}
  if hasattr(spec, "codebook_size"):
    expected |= {"codebook_size": 12, "frame_rate": 40.0}
  assert {field: getattr(spec, field) for field in expected} == expected
  batch = next(dataset())
  shapes_of_batch = {name: value.shape for name, value in batch.items()}
  assert shapes_of_batch == {n: leaf.shape for n, leaf in dataset.batch_shapes().items()}
  state = unbox(jax.eval_shape(model.init, jax.random.key(0), batch))
  _, metrics = jax.eval_shape(model.train_step, state, batch, jax.random.key(1))
  assert metrics["loss"].shape == ()


def test_stated_numbers_of_the_tokens_give_the_same_stages(described_tokens):
  stated = ["NUM_CLUSTERS = 8", "SEMANTIC_RATE = 20.0", "CODEBOOK_SIZE = 12", "FRAME_RATE = 40.0"]
  levels = {
    "coarse_stage_tiny": ["NUM_COARSE_QUANTIZERS = 4", "NUM_FRAME_EMBEDDINGS = 161"],
    "fine_stage_tiny": ["NUM_COARSE_QUANTIZERS = 4", "NUM_FINE_QUANTIZERS = 2"],
    "parallel_stage_tiny": ["NUM_QUANTIZERS = 6"],
    "semantic_stage_tiny": [],
  }
  for name, more in levels.items():
    found = on_tokens(name, described_tokens)["model"].config
    assert on_tokens(name, described_tokens, *stated, *more)["model"].config == found
  fewer = on_tokens("parallel_stage_tiny", described_tokens, "NUM_QUANTIZERS = 4")
  assert fewer["model"].config.spec.num_quantizers == 4


@pytest.mark.parametrize(
  ("name", "binding", "message"),
  [
    ("semantic_stage_tiny", "NUM_CLUSTERS = 9", "vocabulary of 9 in semantic, its tokens have 8"),
    ("coarse_stage_tiny", "FRAME_RATE = 50.0", "rate of 50.0 in codes, its tokens have 40.0"),
    ("fine_stage_tiny", "NUM_FINE_QUANTIZERS = 8", "12 levels of codes, its tokens have 6"),
    ("parallel_stage_tiny", "CODEBOOK_SIZE = 16", "vocabulary of 16 in codes, its tokens have 12"),
    ("text_stage_tiny", "SEMANTIC_RATE = 25.0", "rate of 25.0 in semantic, its tokens have 20.0"),
    ("speech_stage_tiny", "NUM_CLUSTERS = 9", "vocabulary of 9 in source.semantic, its tokens"),
    ("fine_stage_tiny", "NUM_COARSE_QUANTIZERS = 6", "after the first 6, its tokens have 6"),
  ],
)
def test_a_number_that_is_not_that_of_the_tokens_is_refused(
  name, binding, message, described_tokens
):
  with pytest.raises(ConfigError) as error:
    on_tokens(name, described_tokens, binding)
  assert message in str(error.value) and "\n" not in str(error.value)


def test_numbers_that_a_store_lacks_follow_from_the_bundle(miniature_bundle, tmp_path):
  folder = save_bundle(miniature_bundle, tmp_path / "tokenizers")
  bundle = f"BUNDLE = '{folder}'"
  stated = "NUM_COARSE_QUANTIZERS = 3"
  spec = resolve("fine_stage_tiny", bindings=[*REQUIRED, bundle, stated])[0]["model"].config.spec
  assert (spec.codebook_size, spec.num_clusters) == (16, 16)
  assert (spec.num_source_quantizers, spec.num_target_quantizers) == (3, 1)
  store = tmp_path / "tokens"
  for token_hash in (miniature_bundle.token_hash, "other"):
    streams = [Stream("semantic", 16, 25.0)]
    token_store.TokenStoreWriter(store / token_hash, token_hash, streams=streams).finish()
  spec = on_tokens("semantic_stage_tiny", store / miniature_bundle.token_hash, bundle)
  assert spec["model"].config.spec.codebook_size == 16
  with pytest.raises(ConfigError, match="of other tokenizers"):
    on_tokens("semantic_stage_tiny", store / "other", bundle)


def test_without_tokens_a_stage_has_the_numbers_of_the_paper():
  for name, spec in stages.paper_stages().items():
    found = resolve(f"{name}_stage_base", bindings=REQUIRED)[0]["model"].config.spec
    assert found == spec


def test_arguments_of_gin_become_bindings():
  rewritten = train.rewrite_gin_arguments(
    ["train", "--gin.MODEL_DIR='a=b'", "--gin_file=x.gin", "--gin.a/b.C.d=1"]
  )
  assert rewritten == [
    "train",
    "--gin_bindings=MODEL_DIR = 'a=b'",
    "--gin_file=x.gin",
    "--gin_bindings=a/b.C.d = 1",
  ]


@pytest.mark.parametrize(
  ("files", "bindings", "message"),
  [
    ([], [], "give --gin_file"),
    (["nowhere"], [], "gin file gin_configs/nowhere.gin does not exist"),
    (["codec_tiny"], [], "required settings are missing: --gin.MODEL_DIR=VALUE"),
    (["runs/train"], ["MODEL_DIR = 'x'"], "--gin.MODEL=VALUE"),
    (["codec_tiny"], [*REQUIRED, "TRAIN_STEP = 5"], "the macro TRAIN_STEP"),
    (["codec_tiny"], [*REQUIRED, "train.evaluation_period = 5"], "evaluation_period"),
    (["codec_tiny"], [*REQUIRED, "soundstream.SoundStream.strides = 5"], "SoundStream"),
    (["codec_tiny"], ["MODEL_DIR = runs/x"], "text is quoted twice"),
    (
      ["codec_tiny"],
      [*REQUIRED, "TRAIN_STEPS = 50"],
      "TRAIN_STEPS), within its warm-up of 100 steps",
    ),
  ],
)
def test_a_mistake_is_one_line(files, bindings, message):
  with pytest.raises(ConfigError) as error:
    resolve(*files, bindings=bindings)
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def run_cli(*arguments, cwd=REPO):
  return subprocess.run(
    [sys.executable, "-m", "audiolm_jax.train", *arguments],
    env={**os.environ, "PYTHONPATH": str(REPO)},
    capture_output=True,
    text=True,
    timeout=300,
    cwd=cwd,
  )


def test_a_mistake_ends_the_command_with_exit_code_2_and_no_traceback(tmp_path):
  done = run_cli("--gin_file=gin_configs/codec_tiny.gin", "--gin.MODEL_DIRR='x'", cwd=tmp_path)
  assert done.returncode == 2
  assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--multiprocess"], "found neither Cloud TPU nor GKE nor SLURM"),
    (["--multiprocess", "--process_count=2"], "give all of --coordinator_address"),
    (["--coordinator_address=localhost:1"], "need --multiprocess"),
    (["--multiprocess", *PLACE, "--process_count=2", "--process_index=2"], "process_id"),
    (["--gin_file=gin_configs/codec_tiny.gin", *BUCKET], "MODEL_DIR gs://b/run is not a folder"),
  ],
)
def test_invalid_flags_of_multiprocess_runs_are_one_line(arguments, message, tmp_path):
  done = run_cli(*arguments, cwd=tmp_path)
  assert done.returncode == 2, done.stderr
  assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
  assert message in done.stderr


def write_random_tokens(folder, splits=("valid", *["train"] * 5)):
  rng = np.random.default_rng(0)
  streams = [Stream("semantic", 8, 25.0)]
  writer = token_store.TokenStoreWriter(folder, "hash", streams=streams)
  for i, split in enumerate(splits):
    clip = token_shards.TokenClip(
      id=str(i),
      streams={"semantic": rng.integers(0, 8, 80)},
      split=split,
      seconds=3.2,
    )
    writer.add(clip)
  writer.finish()


def test_the_command_trains_a_stage_from_a_token_store_and_resumes(tmp_path):
  write_random_tokens(tmp_path / "tokens")
  arguments = [
    "--gin_file=gin_configs/semantic_stage_tiny.gin",
    "--gin_file=gin_configs/runs/tokens_in_memory.gin",
    f"--gin.TOKENS_DIR='{tmp_path / 'tokens'}'",
    f"--gin.MODEL_DIR='{tmp_path / 'run'}'",
    "--gin.BATCH_SIZE=2",
    "--gin.CROP_SECONDS=2.0",
    "--gin.LOG_PERIOD=2",
    "--gin.transformer.TransformerConfig.num_layers=1",
    "--gin.transformer.TransformerConfig.dim=16",
    "--gin.transformer.TransformerConfig.mlp_dim=16",
    "--gin.optimizers.OptimizerConfig.decay_steps=200",
    "--gin.trainer.TrainConfig.tensorboard=False",
  ]
  first = run_cli(*arguments, "--gin.TRAIN_STEPS=4")
  assert first.returncode == 0, first.stderr
  assert "4/4" in first.stderr and "held-out" in first.stderr
  second = run_cli(*arguments, "--gin.TRAIN_STEPS=6", "--gin.NUM_CLUSTERS=8")
  assert second.returncode == 0, second.stderr
  assert "resuming from checkpoint_4" in second.stderr
  refused = run_cli(*arguments, "--gin.TRAIN_STEPS=6", "--gin.DROPOUT_RATE=0.2")
  assert refused.returncode == 2
  assert "config.transformer.dropout_rate was 0.1, is 0.2" in refused.stderr
  component, config, params = registry.load_inference_params(tmp_path / "run")
  assert component == "semantic_stage" and config.spec.num_clusters == 8
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_a_folder_in_use_and_a_corpus_without_held_out_clips_are_refused_before_compilation(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setenv("AUDIOLM_JAX_CACHE", "off")
  write_random_tokens(tmp_path / "tokens", ["train"] * 2)
  arguments = [
    "--gin_file=gin_configs/semantic_stage_tiny.gin",
    "--gin_file=gin_configs/runs/tokens_in_memory.gin",
    f"--gin.TOKENS_DIR='{tmp_path / 'tokens'}'",
    f"--gin.MODEL_DIR='{tmp_path / 'run'}'",
  ]

  def refused():
    assert command_line.exit_code(train.main, ["train"]) == 2
    printed = capsys.readouterr().err
    assert "compil" not in printed and not (tmp_path / "run" / "metrics.jsonl").exists()
    return printed.splitlines()[-1]

  try:
    train.FLAGS(["train", *train.rewrite_gin_arguments(arguments)])
    (tmp_path / "run").mkdir()
    with run_lock.held(tmp_path / "run"):
      assert f"in use by a run of {getpass.getuser()}" in refused()
    line = refused()
    assert line.startswith("error: ") and "has no clip of the split 'valid'; its splits are" in line
    assert "EVAL_PERIOD=0 trains without evaluation" in line
  finally:
    for name in train.FLAGS:
      train.FLAGS[name].unparse()


def test_help_needs_neither_jax_nor_gin():
  code = (
    "import sys, audiolm_jax.train;"
    "print([m for m in ('jax', 'gin', 'seqio', 'tensorflow') if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    env={**os.environ, "PYTHONPATH": str(REPO)},
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.strip() == "[]"


def test_a_home_folder_in_a_binding_is_expanded(monkeypatch):
  monkeypatch.setenv("HOME", "/home/anna")
  settings, _ = resolve(
    "codec_tiny", bindings=["MODEL_DIR = '~/run'", "MIXTURE_OR_TASK_NAME = 'a~/b'"]
  )
  assert settings["config"].model_dir == "/home/anna/run"
  assert settings["train_dataset"].mixture_or_task_name == "a~/b"
