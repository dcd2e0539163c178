"""From published weights to a bundle that encodes, decodes and takes stages."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import soundfile

from audiolm_jax.bundles import load_bundle
from audiolm_jax.bundles.audio_stream import AudioStream
from audiolm_jax.data.token_store import TokenStore
from audiolm_jax.io import audio
from audiolm_jax.io.token_file import load_tokens
from audiolm_jax.pretrained import registry
from audiolm_jax.sampling.cascade import CascadeResult
from audiolm_jax.trainables.semantic_tokenizer import load_tokenizer
from tests.conftest import melody
from tests.pretrained.conftest import (
  GOLDEN,
  centroids_of,
  hubert_centroids,
  miniature_dac,
  miniature_hubert,
  miniature_w2v_bert_2,
)

MODEL = GOLDEN / "dac"


@pytest.fixture(scope="module")
def dac_codec():
  return miniature_dac()


@pytest.fixture
def wav(tmp_path):
  soundfile.write(tmp_path / "in.wav", melody(1.3), 16_000, subtype="FLOAT")
  return tmp_path / "in.wav"


def convert(run_cli, tmp_path, *more, source=MODEL):
  return run_cli(
    "convert", "--from", "dac_16khz", "--input", source,
    "--output", tmp_path / "dac", *more,
  )  # fmt: skip


def test_a_converted_codec_encodes_decodes_and_makes_tokens(dac_codec, wav, tmp_path, run_cli):
  done = convert(run_cli, tmp_path)
  assert done.code == 0, done.err
  assert "licensed MIT" in done.out and "400 frames per second of 4 codes" in done.out
  bundle = load_bundle(tmp_path / "dac")
  assert not bundle.stages and bundle.token_hash != load_bundle("speech", stages=()).token_hash
  assert bundle.metadata["pretrained"]["codec"]["source"] == "descript/dac_16khz"
  assert "MIT" in bundle.model_card and "speech" in bundle.model_card

  out = tmp_path / "t.npz"
  done = run_cli("encode", wav, "--output", out, "--bundle", tmp_path / "dac")
  assert done.code == 0, done.err
  codes = load_tokens(out).tokens["codes"]
  np.testing.assert_array_equal(codes, dac_codec.encode_long(melody(1.3)))
  arguments = ("--output", tmp_path / "o.wav", "--bundle", tmp_path / "dac")
  done = run_cli("decode", out, *arguments)
  assert done.code == 0, done.err
  waveform, _ = audio.read_audio(tmp_path / "o.wav")
  np.testing.assert_allclose(waveform, dac_codec.decode(codes[None])[0], atol=1 / 32_000)

  again = run_cli("export_bundle", "--bundle", tmp_path / "dac", "--output", tmp_path / "again")
  assert again.code == 0, again.err
  assert load_bundle(tmp_path / "again").token_hash == bundle.token_hash

  from audiolm_jax.data import tokenization

  (tmp_path / "audio").mkdir()
  shutil.copy(wav, tmp_path / "audio" / "a.wav")
  tokenization.tokenize_corpus(bundle, tmp_path / "audio", tmp_path / "tokens", batch_size=2)
  (clip,) = TokenStore(tmp_path / "tokens", bundle.token_hash).clips("train")
  np.testing.assert_array_equal(clip.streams["codes"], codes)


def test_a_codec_of_another_rate_works_with_the_semantic_tokenizer(wav, tmp_path, run_cli):
  arguments = ("convert", "--from", "encodec_24khz", "--input", GOLDEN / "encodec")
  arguments += ("--output", tmp_path / "encodec")
  done = run_cli(*arguments)
  assert done.code == 2 and "no licence of its weights is known" in done.err
  assert "--accept_licence=NOASSERTION" in done.err and not (tmp_path / "encodec").exists()
  done = run_cli(*arguments, "--accept_licence", "NOASSERTION")
  assert done.code == 0, done.err
  assert "24000 Hz, 600 frames per second of 4 codes" in done.out
  bundle = load_bundle(tmp_path / "encodec")
  assert bundle.sample_rate == 24_000 and "NOASSERTION (unstated)" in bundle.model_card

  done = run_cli("encode", wav, "--output", tmp_path / "t.npz", "--bundle", tmp_path / "encodec")
  assert done.code == 0, done.err
  tokens = load_tokens(tmp_path / "t.npz").tokens
  waveform = audio.resample(melody(1.3), 16_000, 24_000)
  np.testing.assert_array_equal(tokens["codes"], bundle.codec.encode_long(waveform))
  np.testing.assert_array_equal(tokens["semantic"], bundle.semantic.tokenize_long(waveform))
  assert len(tokens["semantic"]) == 33  # 1.3 s at 25 Hz
  arguments = ("--output", tmp_path / "o.wav", "--bundle", tmp_path / "encodec")
  done = run_cli("decode", tmp_path / "t.npz", *arguments)
  assert done.code == 0, done.err
  assert audio.read_audio(tmp_path / "o.wav")[1] == 24_000

  arguments = ("--bundle", tmp_path / "encodec", "--output", tmp_path / "again")
  again = run_cli("export_bundle", *arguments)
  assert again.code == 0, again.err
  assert load_bundle(tmp_path / "again").token_hash == bundle.token_hash


def convert_semantic(run_cli, tmp_path, *more, name="hubert_base", source=GOLDEN / "hubert"):
  return run_cli(
    "convert", "--from", name, "--input", source, "--output", tmp_path / "semantic", *more
  )


@pytest.mark.parametrize(
  ("name", "folder", "licence", "miniature"),
  [
    ("hubert_base", "hubert", "Apache-2.0", miniature_hubert),
    ("w2v_bert_2", "w2v_bert_2", "MIT", miniature_w2v_bert_2),
  ],
)
def test_a_converted_semantic_encoder_makes_the_tokens_of_its_centroids(
  name, folder, licence, miniature, wav, tmp_path, run_cli
):
  np.savez(tmp_path / "centroids.npz", centroids=centroids_of(folder))
  arguments = ("--layer", 2, "--kmeans", tmp_path / "centroids.npz")
  done = convert_semantic(run_cli, tmp_path, *arguments, name=name, source=GOLDEN / folder)
  assert done.code == 0, done.err
  assert f"licensed {licence}" in done.out and "50 semantic tokens per second" in done.out
  bundle = load_bundle(tmp_path / "semantic")
  assert not bundle.stages
  assert bundle.metadata["pretrained"]["semantic"]["source"] == registry.MODELS[name].hub_id
  assert licence in bundle.model_card
  np.testing.assert_array_equal(bundle.semantic.params["centroids"], centroids_of(folder))
  out = tmp_path / "t.npz"
  done = run_cli("encode", wav, "--output", out, "--bundle", tmp_path / "semantic")
  assert done.code == 0, done.err
  tokens = load_tokens(out).tokens["semantic"]
  np.testing.assert_array_equal(tokens, miniature().tokenize_long(melody(1.3)))
  assert len(tokens) == 65 and len(set(tokens.tolist())) > 2


@pytest.mark.parametrize(
  ("name", "folder", "miniature"),
  [
    ("hubert_base", "hubert", miniature_hubert),
    ("w2v_bert_2", "w2v_bert_2", miniature_w2v_bert_2),
  ],
)
def test_clusters_are_fitted_on_a_published_encoder(
  name, folder, miniature, wav, tmp_path, run_cli
):
  arguments = ("--input", GOLDEN / folder, "--output", tmp_path / "kmeans", "--num_clusters", 6)
  (tmp_path / "audio").mkdir()
  shutil.copy(wav, tmp_path / "audio" / "a.wav")
  fit = ("fit_kmeans", "--from", name, *arguments, "--audio_dir", tmp_path / "audio")
  done = run_cli(*fit)
  assert done.code == 2 and f"{name} needs --layer" in done.err, done.err
  done = run_cli(*fit, "--layer", 2)
  assert done.code == 0, done.err
  tokenizer = load_tokenizer(tmp_path / "kmeans")
  assert (type(tokenizer), tokenizer.config.layer) == (type(miniature()), 2)
  features = miniature().features(melody(1.3)[None])[0]
  whitened = (features - features.mean(0)) / features.std(0)
  centroids = np.asarray(tokenizer.params["centroids"])
  distance = np.square(whitened[:, None] - centroids).sum(-1)
  found = tokenizer.tokenize_long(melody(1.3))
  assert len(centroids) == 6 and len(set(found.tolist())) == 6
  chosen = np.take_along_axis(distance, found[:, None], axis=1)[:, 0]
  np.testing.assert_allclose(chosen, distance.min(-1), atol=1e-2)


def test_missing_settings_of_a_semantic_encoder_are_reported(tmp_path, run_cli):
  np.savez(tmp_path / "centroids.npz", centroids=hubert_centroids())
  kmeans = ("--kmeans", tmp_path / "centroids.npz")
  pickled = tmp_path / "pickled"
  pickled.mkdir()
  shutil.copy(GOLDEN / "hubert" / "config.json", pickled)
  (pickled / "pytorch_model.bin").write_bytes(b"")
  both = (*kmeans, "--layer", 2)
  for arguments, source, words in (
    (kmeans, GOLDEN / "hubert", "hubert_base needs --layer and --kmeans"),
    (("--layer", 2), GOLDEN / "hubert", "fit_kmeans computes new ones"),
    ((*kmeans, "--layer", 4), GOLDEN / "hubert", "layer 4 is not one of the model's blocks 1 to 3"),
    (both, pickled, "a pickle, which may run any code"),
    (both, pickled / "pytorch_model.bin", "convert it to model.safetensors once"),
    (both, MODEL, "type 'dac', expected 'hubert'"),
  ):
    done = convert_semantic(run_cli, tmp_path, *arguments, source=source)
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done.err
  done = convert(run_cli, tmp_path, "--layer", 2)
  assert done.code == 2 and "--layer is for a semantic encoder" in done.err, done.err
  assert not (tmp_path / "semantic").exists() and not (tmp_path / "dac").exists()


def test_audio_is_streamed_through_a_codec_that_looks_ahead(dac_codec):
  bundle = dataclasses.replace(load_bundle("speech", stages=()), codec=dac_codec)
  codes = dac_codec.encode_long(melody(0.5))
  samples = len(codes) * dac_codec.spec.hop_length

  def pieces():
    yield from np.split(codes, [10, 60])
    return CascadeResult({"semantic": (np.arange(3),), "codes": (codes,)}, {})

  stream = AudioStream(bundle, pieces(), samples, 0, lambda piece, start: piece[: samples - start])
  streamed = np.concatenate(list(stream))
  np.testing.assert_allclose(streamed, dac_codec.decode(codes[None])[0], rtol=0, atol=1e-5)
  assert stream.tokens is not None
  np.testing.assert_array_equal(stream.tokens.codes, codes)


def test_models_that_cannot_be_converted_are_reported(tmp_path, run_cli, monkeypatch):
  broken = tmp_path / "broken"
  shutil.copytree(MODEL, broken)
  (broken / "model.safetensors").write_bytes((MODEL / "model.safetensors").read_bytes()[:-9])
  other = tmp_path / "other"
  shutil.copytree(MODEL, other)
  config = json.loads((MODEL / "config.json").read_text())
  (other / "config.json").write_text(json.dumps(config | {"sampling_rate": 22_051}))
  (tmp_path / "empty").mkdir()
  for source, words in (
    (broken, "cannot be read"),
    (other, "whole number of samples at the 22051 Hz of the codec"),
    (tmp_path / "empty", "model.safetensors is missing"),
  ):
    done = convert(run_cli, tmp_path, source=source)
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done.err
  for arguments, words in (
    (("--output", tmp_path / "dac"), "--from is required"),
    (("--from", "dac_16khz"), "--output is required"),
    (("--from", "mp3", "--output", tmp_path / "dac"), "no published model 'mp3'"),
  ):
    done = run_cli("convert", *arguments)
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done.err
  bound = dataclasses.replace(
    registry.MODELS["dac_16khz"], licence="CC-BY-NC-4.0", terms=registry.Terms.NON_COMMERCIAL
  )
  monkeypatch.setitem(registry.MODELS, "dac_16khz", bound)
  done = convert(run_cli, tmp_path)
  assert done.code == 2 and "agree with --accept_licence=CC-BY-NC-4.0" in done.err
  done = convert(run_cli, tmp_path, "--accept_licence", "MIT")
  assert done.code == 2
  assert not (tmp_path / "dac").exists()
  done = convert(run_cli, tmp_path, "--accept_licence", "CC-BY-NC-4.0")
  assert done.code == 0 and "non-commercial" in done.out, done.err
  known = dataclasses.replace(bound, sha256="0" * 64)
  monkeypatch.setitem(registry.MODELS, "dac_16khz", known)
  done = convert(run_cli, tmp_path, "--accept_licence", "CC-BY-NC-4.0")
  assert done.code == 2 and "download them again" in done.err
