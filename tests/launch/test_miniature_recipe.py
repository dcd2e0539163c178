"""The whole recipe for real: from a folder of sound to a bundle that continues one of its clips."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile

from audiolm_jax import bundles
from audiolm_jax.trainables import registry
from tests.conftest import MINIATURE_CODEC, MINIATURE_ENCODER, melody

REPO = Path(__file__).parents[2]
TRAINED = ["codec", "semantic", "semantic_stage", "coarse_stage", "fine_stage"]
SHORT = ["BATCH_SIZE=2", "LOG_PERIOD=3", "EVAL_PERIOD=6", "EVAL_STEPS=1", "TRAIN_STEPS=6"]
SMALLER = {
  "codec": [
    *MINIATURE_CODEC,
    "QUANTIZER_START_STEP=2",
    "ADVERSARIAL_START_STEP=4",
    # Two blocks of one layer and small discriminators compile fast.
    "soundstream.SoundStreamConfig.strides=(16,20)",
    "soundstream.SoundStreamConfig.dilations=(1,)",
    "discriminators.DiscriminatorConfig.stft_channels=2",
    "discriminators.DiscriminatorConfig.stft_windows=(256,)",
    "generator/optimizers.OptimizerConfig.name='adam'",
    "generator/optimizers.OptimizerConfig.warmup_steps=2",
  ],
  "semantic": [
    "WARMUP_STEPS=2",
    *MINIATURE_ENCODER,
  ],
}
STAGE = [
  "WARMUP_STEPS=2",
  "trainer.TrainConfig.tensorboard=False",
  "transformer.TransformerConfig.num_layers=1",
  "transformer.TransformerConfig.dim=16",
  "transformer.TransformerConfig.mlp_dim=32",
]


def overrides():
  for step in TRAINED:
    for binding in SHORT + SMALLER.get(step, STAGE):
      yield f"{step}:--gin.{binding}"
  yield from ("kmeans:--layer=2", "kmeans:--num_clusters=8", "bundle:--storage=float32")


def train_bundle(folder, *overrides, bundle="bundle", audio="sounds", options=()):
  command = ["bash", "launch/train_bundle.sh", str(folder / audio), str(folder / bundle)]
  command += options
  for override in overrides:
    command += ["--override", override]
  done = subprocess.run(
    command,
    env={**os.environ, "PYTHON": sys.executable},
    cwd=REPO,
    capture_output=True,
    text=True,
    timeout=1200,
  )
  assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
  return done.stdout


SMALL = {
  "codec": [
    "CODEBOOK_SIZE=16",
    "NUM_QUANTIZERS=4",
    "frame_rate.FrameRateConfig.encoder_dim=16",
    "frame_rate.FrameRateConfig.decoder_dim=16",
    "frame_rate.FrameRateConfig.latent_dim=8",
    "codec_training.CodecTrainingConfig.kmeans_vectors=64",
    "QUANTIZER_START_STEP=2",
    "WARMUP_STEPS=2",
  ],
  "units": [
    "WARMUP_STEPS=2",
    "unit_encoder.UnitEncoderConfig.dim=16",
    "unit_encoder.UnitEncoderConfig.dilations=(1,2)",
  ],
  "semantic_stage": [*STAGE, "transformer.TransformerConfig.num_heads=2"],
  "parallel_stage": [
    *STAGE,
    "transformer.TransformerConfig.num_heads=2",
    "LATENT_DIM=8",
    "PASSES=(2,)",
  ],
}
SMALL["parallel_stage_long"] = SMALL["parallel_stage"]
SMALL["units_2"] = SMALL["units_3"] = SMALL["units"]
SMALL["units_4"] = [*SMALL["units"], "NUM_UNITS=8", "NUM_LABELS=16"]


def small_overrides():
  for step, bindings in SMALL.items():
    for binding in SHORT + bindings:
      yield f"{step}:--gin.{binding}"
  yield from ("kmeans_3:--num_clusters=8", "kmeans:--num_clusters=8", "labels_4:--num_labels=16")
  yield from (f"{step}:--storage=float32" for step in ("tokenizers_3", "tokenizers", "bundle"))


@pytest.mark.slow
def test_a_manifest_with_texts_becomes_a_bundle_with_units_and_a_parallel_stage(tmp_path):
  rows = []
  for i in range(6):
    for speaker, seconds, gain in (("ada", 6.0, 1.0), ("bo", 5.0, 0.5)):
      path = tmp_path / f"{speaker}{i}.wav"
      sound = np.interp(np.linspace(0, 6, round(seconds * 16_000)), np.arange(96_000) / 16_000,
                        gain * melody(6.0, seed=i))  # fmt: skip
      soundfile.write(path, sound, 16_000)
      split = "valid" if i == 5 else "train"
      rows.append({"path": path.name, "speaker": speaker, "text": f"Tune {i}.", "split": split})
  (tmp_path / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
  options = ("--preset", "small", "--canonical_speaker", "ada")
  out = train_bundle(tmp_path, *small_overrides(), audio="clips.jsonl", options=options)
  assert out.count("   took ") == 19
  assert "6 clips of the canonical voice" in out
  assert train_bundle(tmp_path, audio="clips.jsonl", options=options).count("already done") == 19

  bundle = bundles.load_bundle(tmp_path / "bundle")
  assert list(bundle.stages) == ["semantic", "parallel"]
  assert type(bundle.semantic).__name__ == "UnitTokenizer"
  made = bundle.continue_audio(
    melody(2.0, seed=9), 16_000, prompt_seconds=1.0, duration=0.5, temperature={"semantic": 1.0}
  )
  assert made.waveform.shape == (24_000,) and np.abs(made.waveform).max() > 0


# One test, so that the parallel workers make the bundle once.
def test_a_folder_of_sound_becomes_a_bundle_that_continues_it(tmp_path, run_cli):
  for i in range(5):
    path = tmp_path / "sounds" / ("valid" if i == 4 else "train") / f"{i}.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, melody(11.0, seed=i), 16_000)
  printed = train_bundle(tmp_path, *overrides())
  assert printed.count("   took ") == printed.count("; expect ") == 9
  assert "is ready after" in printed

  work = tmp_path / "bundle.work"
  for step in TRAINED:
    metrics = (work / step / "metrics.jsonl").read_text()
    assert '"split": "train"' in metrics and '"split": "eval"' in metrics
    assert "NaN" not in metrics

  # The exported stages are the trained ones to the bit.
  for name, stage in bundles.load_bundle(tmp_path / "bundle").stages.items():
    component, config, trained = registry.load_inference_params(work / f"{name}_stage")
    assert component == f"{name}_stage" and config.spec == stage.spec
    jax.tree.map(np.testing.assert_array_equal, stage.params, trained)

  # The ablation shares all but its coarse stage.
  shared = [o.replace("coarse_stage:", "acoustic_only:") for o in overrides()]
  shared = [o for o in shared if o.startswith("acoustic_only:")]
  options = ("--acoustic_only", "--work_dir", str(work))
  assert (
    train_bundle(tmp_path, *shared, bundle="ablation", options=options).count("already done") == 6
  )
  ablation = bundles.load_bundle(tmp_path / "ablation")
  assert list(ablation.stages) == ["coarse", "fine"]
  assert not ablation.stages["coarse"].spec.uses_semantic  # pyright: ignore[reportAttributeAccessIssue]: this kind of stage has it
  tune = melody(2.0, seed=9)
  made = ablation.continue_audio(tune, 16_000, prompt_seconds=1.0, duration=0.5)
  assert made.waveform.shape == (24_000,) and np.abs(made.waveform).max() > 0

  before = (tmp_path / "bundle" / "bundle.json").stat().st_mtime_ns
  assert train_bundle(tmp_path).count("already done") == 9
  assert (tmp_path / "bundle" / "bundle.json").stat().st_mtime_ns == before

  sampled = run_cli(
    "sample",
    *("--bundle", tmp_path / "bundle", "--prompt", tmp_path / "sounds" / "valid" / "4.wav"),
    *("--output", tmp_path / "out.wav", "--prompt_seconds", 1.0, "--duration", 1.0, "--seed", 1),
  )
  assert sampled.code == 0, sampled.err
  sound, rate = soundfile.read(tmp_path / "out.wav")
  assert rate == 16_000 and len(sound) == 32_000
  assert np.isfinite(sound).all() and np.abs(sound).max() > 0
