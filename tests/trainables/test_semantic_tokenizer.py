import json

import flax.linen as nn
import jax
import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import UserError
from audiolm_jax.semantic.conformer import ConformerEncoder, truncate_params
from audiolm_jax.semantic.features import log_mel
from audiolm_jax.trainables import semantic_tokenizer
from audiolm_jax.trainables.w2v_bert import SemanticTrainable


@pytest.fixture
def run(w2v_config, tmp_path, speechlike):
  """Writes a finished run of a semantic encoder and a folder of audio."""
  from audiolm_jax.training import checkpoints

  trainable = SemanticTrainable(w2v_config)
  batch = {"waveform": speechlike(16_000)[None], "length": np.array([16_000], np.int32)}
  state = nn.unbox(jax.jit(trainable.init)(jax.random.key(0), batch))
  folder = tmp_path / "run"
  folder.mkdir()
  description = checkpoints.describe_model(trainable, batch, 0)
  (folder / "model.json").write_text(json.dumps(description))
  writer = checkpoints.Checkpoints(folder)
  writer.save(3, state, {})
  writer.close()
  audio = tmp_path / "audio" / "train"
  audio.mkdir(parents=True)
  for index in range(3):
    soundfile.write(audio / f"{index}.wav", speechlike(16_000 * (2 + index), index), 16_000)
  return tmp_path, trainable.inference_params(state)


def test_the_command_writes_a_tokenizer_of_the_runs_encoder(run, w2v_config, run_cli, speechlike):
  folder, params = run
  done = run_cli(
    "fit_kmeans",
    f"--encoder_dir={folder / 'run'}",
    f"--audio_dir={folder / 'audio'}",
    "--layer=2",
    "--num_clusters=12",
    "--chunk_steps=100",
    f"--output={folder / 'new' / 'kmeans'}",
  )
  assert done.code == 0, done.err
  assert "225 frames in 12 clusters" in done.out
  tokenizer = semantic_tokenizer.load_tokenizer(folder / "new" / "kmeans")
  assert tokenizer.config.layer == 2 and tokenizer.spec.num_clusters == 12
  waveform = speechlike(20_000, 7)[None]
  encoder = w2v_config.encoder.truncated(2)
  mel = log_mel(waveform, encoder.features)
  kept = {"params": truncate_params(params["encoder"], w2v_config.encoder, 2)}
  plain = ConformerEncoder(encoder).apply(kept, mel, np.ones((1, mel.shape[1] // 4), bool))
  expected = (plain - tokenizer.params["mean"]) / tokenizer.params["scale"]
  np.testing.assert_allclose(tokenizer.features(waveform), expected, atol=1e-4)
  assert len(set(tokenizer.tokenize(waveform)[0])) > 2
  report = json.loads((folder / "new" / "kmeans" / "report.json").read_text())
  assert sum(report["clusters"]["usage"]) == 225


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--audio_dir={}/audio"], "--encoder_dir"),
    (["--encoder_dir={}/run"], "--audio_dir or --manifest"),
    (["--encoder_dir={}/none", "--audio_dir={}/audio"], "not a run folder"),
    (["--encoder_dir={}/run", "--audio_dir={}/none"], "does not exist"),
    (["--encoder_dir={}/run", "--audio_dir={}/audio", "--layer=9"], "layer 9 is not in 0..3"),
    (
      ["--encoder_dir={}/run", "--audio_dir={}/audio", "--num_clusters=5000"],
      "225 frames are too few for 5000",
    ),
  ],
)
def test_errors_are_one_line(run, run_cli, arguments, message):
  folder, _ = run
  given = [a.format(folder) for a in arguments]
  done = run_cli("fit_kmeans", *given, f"--output={folder / 'kmeans'}")
  assert done.code == 2
  assert message in done.err and done.err.count("\n") == 1
  assert not (folder / "kmeans").exists()


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
  with pytest.raises(UserError, match=r"report\.json cannot be read"):
    semantic_tokenizer.load_tokenizer(tmp_path)
