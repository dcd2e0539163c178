"""The recipe on published tokenizers: which stages it trains, and all of it in miniature."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from audiolm_jax.bundles import Bundle, load_bundle, save_bundle
from audiolm_jax.codec.interface import CodecSpec
from audiolm_jax.core import configs
from audiolm_jax.core.streams import of_tokenizers
from audiolm_jax.lm import parallel, stages
from audiolm_jax.pretrained.w2v_bert_2_tokenizer import W2vBert2Tokenizer
from audiolm_jax.semantic.resampled import tokenizer_at
from audiolm_jax.semantic.spec import SemanticSpec
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
  [(8, 4), (12, 8), (32, 8)],
)
def test_the_fine_stage_gets_the_levels_up_to_the_twelfth(levels, fine):
  streams = of_tokenizers(
    configs.to_dict(CodecSpec(24_000, 320, levels, 2048)),
    configs.to_dict(SemanticSpec(16_000, 320, 12)),
  )
  coarse, last = (stage(streams=streams) for stage in (stages.coarse_stage, stages.fine_stage))
  assert (coarse.num_target_quantizers, last.num_target_quantizers) == (4, fine)
  assert (coarse.num_clusters, coarse.semantic_rate) == (12, 50.0)
  assert (last.codebook_size, last.frame_rate) == (2048, 75.0)
  assert parallel.parallel_stage(streams=streams).num_quantizers == min(levels, 12)


def test_published_tokenizers_leave_the_stages_to_be_trained(tokenizers, tmp_path):
  done = recipe(tmp_path, tmp_path / "mine", "--tokenizers", tokenizers, "--dry_run")
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  steps = [line.split(":")[0].removeprefix("# ") for line in lines[::2]]
  assert steps == ["tokens", "semantic_stage", "coarse_stage", "bundle"]
  assert f"--bundle={tokenizers}" in lines[1] and "fine" not in lines[7]


def test_a_parallel_stage_does_without_the_codebooks_of_published_tokenizers(tokenizers, tmp_path):
  options = ("--preset", "small", "--tokenizers", tokenizers, "--dry_run")
  done = recipe(tmp_path, tmp_path / "mine", *options)
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  steps = [line.split(":")[0].removeprefix("# ") for line in lines[::2]]
  assert steps == ["tokens", "semantic_stage", "parallel_stage", "parallel_stage_long", "bundle"]
  for line in (lines[5], lines[7]):
    assert "--gin.HEADS='plain'" in line.replace("\\'", "'").split()


def test_a_bundle_with_stages_is_refused(tmp_path):
  done = recipe(tmp_path, tmp_path / "mine", "--tokenizers", "speech", "--dry_run")
  assert done.returncode == 2 and "speech has stages" in done.stderr
  done = recipe(tmp_path, tmp_path / "mine", "--tokenizers", tmp_path / "none", "--dry_run")
  assert done.returncode == 2 and done.stderr.startswith("error: ")
  assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


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
  small += ("CROP_SECONDS=0.5", "WARMUP_STEPS=2", "transformer.TransformerConfig.dim=16")
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
