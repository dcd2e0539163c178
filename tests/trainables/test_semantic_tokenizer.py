import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from audiolm_jax import fit_kmeans
from audiolm_jax.codec.frame_rate import FrameRateConfig
from audiolm_jax.codec.residual_codec import ResidualCodec
from audiolm_jax.core.errors import ConfigError, UserError
from audiolm_jax.semantic.conformer import ConformerEncoder, truncate_params
from audiolm_jax.semantic.features import log_mel
from audiolm_jax.semantic.unit_encoder import UnitEncoder, UnitEncoderConfig, UnitTokenizer
from audiolm_jax.trainables import semantic_tokenizer
from audiolm_jax.trainables.w2v_bert import SemanticTrainable
from tests.tone_codec import ToneCodec


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


def test_units_are_clusters_of_features_projected_on_a_codec(
  tmp_path, monkeypatch, run_cli, speechlike
):
  """The ids are those of the nearest centroids to the fitted latents; the codec's rate must fit."""
  from audiolm_jax.bundles import Bundle, load_bundle, save_bundle

  encoder = UnitEncoderConfig(dim=8, dilations=(1,), kernel_size=3)
  params = UnitEncoder(encoder).init(
    jax.random.key(0), np.zeros((1, 8, 80), np.float32), np.ones((1, 8), bool)
  )["params"]
  start = UnitTokenizer.unclustered(encoder, nn.unbox(params))
  monkeypatch.setattr(fit_kmeans, "_own", lambda: start)
  codec = FrameRateConfig(
    encoder_dim=8, encoder_layers=1, encoder_short_dim=8, decoder_dim=8, decoder_layers=1,
    decoder_short_dim=8, latent_dim=4, num_quantizers=2, codebook_size=16,
  )  # fmt: skip
  weights = nn.unbox(codec.init_params(jax.random.split(jax.random.key(1)), jnp.zeros((1, 640))))
  weights["codebooks"] = np.random.default_rng(2).normal(size=(2, 16, 4)).astype(np.float32)
  (tmp_path / "audio").mkdir()
  rows = []
  for index in range(3):
    path = tmp_path / "audio" / f"{index}.wav"
    soundfile.write(path, speechlike(32_000, index), 16_000)
    rows.append(json.dumps({"path": str(path), "split": "train"}))
  (tmp_path / "one.jsonl").write_text("\n".join(rows) + "\n")
  save_bundle(Bundle("one", ResidualCodec(codec, weights), start), tmp_path / "bundle")
  arguments = [
    "fit_kmeans", "--encoder_dir=unused", f"--manifest={tmp_path / 'one.jsonl'}",
    "--num_clusters=6", f"--output={tmp_path / 'kmeans'}",
  ]  # fmt: skip
  projected = [f"--codec_bundle={tmp_path / 'bundle'}"]
  done = run_cli(*arguments, *projected)
  assert done.code == 2 and "--codec_bundle and --speaker_manifest go together" in done.err
  done = run_cli(*arguments, *projected, f"--speaker_manifest={tmp_path / 'one.jsonl'}")
  assert done.code == 0, done.err
  tokenizer = semantic_tokenizer.load_tokenizer(tmp_path / "kmeans")
  assert isinstance(tokenizer, UnitTokenizer) and tokenizer.config.projected_dim == 8
  assert tokenizer.params["centroids"].shape == (6, 8)

  files = sorted((tmp_path / "audio").iterdir())
  waveforms = [soundfile.read(path, dtype="float32")[0] for path in files]
  features = np.concatenate([start.features(w[None])[0] for w in waveforms])
  loaded = load_bundle(tmp_path / "bundle").codec
  books = np.asarray(loaded.codebooks)
  codes = np.concatenate([loaded.encode(w[None])[0] for w in waveforms])
  latents = (books[0][codes[:, 0]] + books[1][codes[:, 1]]).reshape(len(features), 8)
  centred = features - features.mean(0)
  penalty = 0.01 * centred.var(0).mean() * len(centred) * np.eye(8)
  matrix = np.linalg.solve(centred.T @ centred + penalty, centred.T @ (latents - latents.mean(0)))
  found = tokenizer.features(waveforms[0][None])[0]
  np.testing.assert_allclose(found, (centred @ matrix)[: len(found)], atol=2e-3)
  distances = np.square(found[:, None] - tokenizer.params["centroids"]).sum(-1)
  np.testing.assert_array_equal(tokenizer.tokenize(waveforms[0][None])[0], distances.argmin(-1))


def test_a_codec_whose_frames_do_not_fit_the_steps_is_refused():
  encoder = UnitEncoderConfig(dim=8, dilations=(1,), kernel_size=3)
  tokenizer = UnitTokenizer.unclustered(encoder, {})
  codec = ToneCodec()
  codec.spec = dataclasses.replace(codec.spec, hop_length=300)
  with pytest.raises(ConfigError, match=r"features every 640 samples .* frames of 300 samples"):
    semantic_tokenizer.acoustic_projection(tokenizer, codec, [])
