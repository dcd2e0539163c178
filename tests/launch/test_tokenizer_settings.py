"""The recipe on published tokenizers: the settings of its stages, and a run in miniature."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from audiolm_jax import train
from audiolm_jax.bundles import Bundle, load_bundle, save_bundle
from audiolm_jax.codec.residual_codec import ResidualCodec
from audiolm_jax.codec.soundstream import SoundStreamConfig
from audiolm_jax.pretrained.dac import DacCodec, DacConfig
from audiolm_jax.pretrained.hubert_tokenizer import HubertTokenizer, HubertTokenizerConfig
from audiolm_jax.pretrained.w2v_bert_2_tokenizer import (
  W2vBert2Tokenizer,
  W2vBert2TokenizerConfig,
)
from audiolm_jax.semantic.resampled import tokenizer_at
from tests.conftest import melody
from tests.pretrained.conftest import (
  miniature_dac,
  miniature_encodec,
  miniature_hubert,
  miniature_mimi,
  miniature_w2v_bert_2,
)

REPO = Path(__file__).parents[2]


@pytest.fixture
def tokenizers(tmp_path):
  """DAC and HuBERT in miniature: 4 levels of 16 codes, 400 frames and 50 tokens per second."""
  return save_bundle(Bundle("published", miniature_dac(), miniature_hubert()), tmp_path / "both")


def recipe(audio, bundle, *more):
  return subprocess.run(
    ["bash", str(REPO / "launch" / "train_bundle.sh"), str(audio), str(bundle), *map(str, more)],
    env={**os.environ, "PYTHON": sys.executable},
    capture_output=True,
    text=True,
  )


@pytest.mark.parametrize(
  ("levels", "fine"),
  [(4, None), (8, "4"), (12, "8"), (32, "8")],
)
def test_the_fine_stage_gets_the_levels_up_to_the_twelfth(levels, fine, tokenizers, load_script):
  script = load_script("tokenizer_settings")
  config = SoundStreamConfig(sample_rate=24_000, num_quantizers=levels, codebook_size=2048)
  bundle = dataclasses.replace(load_bundle(tokenizers), codec=ResidualCodec(config, {}))
  settings = dict(flag.removeprefix("--gin.").split("=") for flag in script.settings(bundle))
  assert settings.pop("NUM_FINE_QUANTIZERS", None) == fine
  assert settings == {
    "NUM_CLUSTERS": "12", "SEMANTIC_RATE": "50.0", "FRAME_RATE": "75.0", "CODEBOOK_SIZE": "2048",
    "NUM_QUANTIZERS": str(min(levels, 12)),
  }  # fmt: skip


@pytest.mark.parametrize("semantic", ["hubert_base", "w2v_bert_2"])
def test_the_gin_file_of_published_tokenizers_has_their_settings(semantic, load_script):
  of_published_shape = {
    "hubert_base": HubertTokenizer(HubertTokenizerConfig(), {}),
    "w2v_bert_2": W2vBert2Tokenizer(W2vBert2TokenizerConfig(), {}),
  }[semantic]
  bundle = Bundle("published", DacCodec(DacConfig(), {}), of_published_shape)
  settings = [
    flag.removeprefix("--gin.") for flag in load_script("tokenizer_settings").settings(bundle)
  ]
  by_hand = ["MODEL_DIR = 'm'", "MIXTURE_OR_TASK_NAME = 't'"]
  for stage in ("semantic", "coarse", "fine"):
    file = f"gin_configs/{stage}_stage_base.gin"
    levels = ["NUM_FINE_QUANTIZERS"] if stage == "fine" else []
    known = [w for w in settings if "QUANTIZERS" not in w or w.split("=")[0] in levels]
    wanted, _ = train.resolve([file], by_hand + known)
    found, _ = train.resolve([file, f"gin_configs/tokenizers/dac_16khz_{semantic}.gin"], by_hand)
    assert found["model"].config.spec == wanted["model"].config.spec


def test_published_tokenizers_leave_the_stages_to_be_trained(tokenizers, tmp_path):
  done = recipe(tmp_path, tmp_path / "mine", "--tokenizers", tokenizers, "--dry_run")
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  steps = [line.split(":")[0].removeprefix("# ") for line in lines[::2]]
  assert steps == ["tokens", "semantic_stage", "coarse_stage", "bundle"]
  assert f"--bundle={tokenizers}" in lines[1] and "--gin.FRAME_RATE=400.0" in lines[5]
  assert "--gin.NUM_FRAME_EMBEDDINGS=1601" in lines[5] and "fine" not in lines[7]


def test_the_parallel_stage_gets_all_levels_of_published_tokenizers(tokenizers, tmp_path):
  options = ("--preset", "small", "--tokenizers", tokenizers, "--dry_run")
  done = recipe(tmp_path, tmp_path / "mine", *options)
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  steps = [line.split(":")[0].removeprefix("# ") for line in lines[::2]]
  assert steps == ["tokens", "semantic_stage", "parallel_stage", "bundle"]
  words = lines[5].replace("\\'", "'").split()
  assert {"--gin.NUM_QUANTIZERS=4", "--gin.HEADS='plain'", "--gin.FRAME_RATE=400.0"} <= set(words)
  assert not any("QUANTIZERS" in word for word in lines[3].split())
  bindings = [w.removeprefix("--gin.") for w in words if w.startswith("--gin.")]
  files = [w.removeprefix("--gin_file=") for w in words if w.startswith("--gin_file=")]
  settings, _ = train.resolve(files, bindings)
  assert settings["model"].config.spec.num_quantizers == 4


def test_a_bundle_with_stages_is_refused(tmp_path):
  done = recipe(tmp_path, tmp_path / "mine", "--tokenizers", "speech", "--dry_run")
  assert done.returncode == 2 and "speech has stages" in done.stderr


def halved_w2v_bert_2():
  """25 tokens per second."""
  whole = miniature_w2v_bert_2()
  config = dataclasses.replace(whole.config, steps_per_token=2)
  return W2vBert2Tokenizer(config, whole.params)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("codec_of", "semantic_of"),
  [
    (miniature_dac, miniature_hubert),
    (miniature_dac, miniature_w2v_bert_2),
    (miniature_encodec, miniature_hubert),
    (miniature_mimi, halved_w2v_bert_2),
  ],
  ids=["dac-hubert", "dac-w2v_bert_2", "encodec-hubert", "mimi-halved_w2v_bert_2"],
)
def test_stages_are_trained_on_tokens_of_published_models_and_continue_sound(
  codec_of, semantic_of, tmp_path
):
  codec = codec_of()
  rate = codec.spec.sample_rate
  published = Bundle("published", codec, tokenizer_at(semantic_of(), rate))
  tokenizers = save_bundle(published, tmp_path / "both")
  audio = tmp_path / "audio"
  audio.mkdir()
  for i in range(8):
    soundfile.write(audio / f"{i}.wav", melody(2.0 + 0.1 * i), 16_000)
  small = ("TRAIN_STEPS=4", "BATCH_SIZE=2", "EVAL_PERIOD=4", "CHECKPOINT_PERIOD=4")
  small += ("CROP_SECONDS=0.5", "WARMUP_STEPS=2", "transformer.TransformerConfig.embed_dim=16")
  overrides = [
    word
    for stage in ("semantic_stage", "coarse_stage")
    for binding in small
    for word in ("--override", f"{stage}:--gin.{binding}")
  ]
  done = recipe(audio, tmp_path / "mine", "--tokenizers", tokenizers, *overrides)
  assert done.returncode == 0, done.stdout + done.stderr
  bundle = load_bundle(tmp_path / "mine")
  assert list(bundle.stages) == ["semantic", "coarse"]
  assert bundle.stages["coarse"].spec.frame_rate == codec.spec.frame_rate  # pyright: ignore[reportAttributeAccessIssue]: this kind of stage has it
  made = bundle.continue_audio(melody(0.6), 16_000, duration=0.4, seed=1)
  assert len(made.waveform) == pytest.approx(rate, abs=codec.spec.hop_length)
  assert made.tokens.codes.shape == (codec.spec.frame_rate, 4)
