"""Encoding and decoding, with the API and the two commands."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from audiolm_jax.bundles import save_bundle, token_files
from audiolm_jax.core.errors import AudioError, DataError, UserError
from audiolm_jax.io import audio, token_file
from tests.conftest import melody

RATE = 16_000


@pytest.fixture(scope="module")
def folder(miniature_bundle, tmp_path_factory):
  return save_bundle(miniature_bundle, tmp_path_factory.mktemp("bundles") / "mini")


@pytest.fixture
def wav(tmp_path):
  soundfile.write(tmp_path / "in.wav", melody(2.0), RATE, subtype="FLOAT")
  return tmp_path / "in.wav"


def test_an_incomplete_hop_has_a_token(miniature_bundle):
  encoded = miniature_bundle.encode(melody(1.03), RATE)
  assert encoded.semantic.shape == (26,) and encoded.codes.shape == (52, 4)
  assert encoded.semantic.dtype == encoded.codes.dtype == np.int32


def test_a_beam_search_is_an_option(miniature_bundle, folder, wav, tmp_path, run_cli):
  wide = miniature_bundle.searching(4)
  expected = wide.encode(melody(2.0), RATE).codes
  assert np.any(expected != miniature_bundle.encode(melody(2.0), RATE).codes)
  assert wide.token_hash == miniature_bundle.token_hash
  run_cli("encode", wav, "--bundle", folder, "--output", tmp_path / "t.npz", "--search_width=4")
  np.testing.assert_array_equal(token_file.load_tokens(tmp_path / "t.npz").codes, expected)
  assert wide.searching(1).codec.config == miniature_bundle.codec.config
  with pytest.raises(UserError, match="search_width is 0"):
    miniature_bundle.searching(0)


def test_a_batch_encodes_and_decodes_as_its_rows(miniature_bundle):
  batch = np.stack([melody(1.5, seed) for seed in range(3)])
  encoded = miniature_bundle.encode(batch, RATE)
  waveform = miniature_bundle.decode(encoded.codes)
  assert encoded.codes.shape == (3, 75, 4) and waveform.shape == (3, 24_000)
  for row in range(3):
    alone = miniature_bundle.encode(batch[row], RATE)
    np.testing.assert_array_equal(alone.semantic, encoded.semantic[row])
    np.testing.assert_array_equal(alone.codes, encoded.codes[row])
    np.testing.assert_allclose(miniature_bundle.decode(alone.codes), waveform[row], atol=1e-5)


def test_integers_and_other_rates_have_nearly_the_same_codes(miniature_bundle):
  waveform = melody(1.0)
  encoded = miniature_bundle.encode(waveform, RATE)
  as_int = miniature_bundle.encode((waveform * 32_768).astype(np.int16), RATE)
  assert np.mean(as_int.codes == encoded.codes) > 0.9
  doubled = audio.resample(waveform, RATE, 2 * RATE)
  assert (
    np.mean(miniature_bundle.encode(doubled, 2 * RATE).codes[:, 0] == encoded.codes[:, 0]) > 0.8
  )


def test_fewer_levels_can_be_decoded(miniature_bundle):
  codes = miniature_bundle.encode(melody(0.5), RATE).codes
  one, all_levels = (miniature_bundle.decode(codes[:, :k]) for k in (1, 4))
  assert one.shape == all_levels.shape == (8_000,) and not np.array_equal(one, all_levels)


@pytest.mark.parametrize(
  "waveform, words",
  [
    (np.zeros(0), "no samples"),
    (np.full(RATE, np.nan), "NaN"),
    (np.zeros(RATE), "the waveform is silent"),
    ((melody(1.0) * 32_768).astype(np.int64), "the waveform is silent"),
    (np.zeros((1, 2, RATE)), r"give an array \[samples\]"),
    (np.ones(100), r"0\.01 s long; at least 0\.04 s"),
    (np.array(["a"]), r"give an array \[samples\]"),
  ],
)
def test_invalid_waveforms_are_refused(miniature_bundle, waveform, words):
  with pytest.raises(AudioError, match=words):
    miniature_bundle.encode(waveform, RATE)


@pytest.mark.parametrize(
  "codes, words",
  [
    (np.zeros((3, 5), int), "codes have 5 levels, the codec has 4"),
    (np.full((3, 2), 16), r"in 16\.\.16; the codec's range is 0\.\.15"),
    (np.full((3, 2), -1), r"codes are in -1"),
    (np.zeros((3, 2)), "float64 of shape"),
    (np.zeros(3, int), r"of shape \(3,\)"),
    (np.zeros((0, 4), int), "of shape"),
  ],
)
def test_invalid_codes_are_refused(miniature_bundle, codes, words):
  with pytest.raises(DataError, match=words):
    miniature_bundle.decode(codes)


def test_the_commands_equal_the_api(miniature_bundle, folder, wav, tmp_path, run_cli):
  done = run_cli("encode", wav, "--output", tmp_path / "t.npz", "--bundle", folder)
  assert done.code == 0, done.err
  assert "2.00 s: 50 semantic tokens, 100 frames of 4 codes" in done.out
  tokens = token_file.load_tokens(tmp_path / "t.npz")
  encoded = miniature_bundle.encode(melody(2.0), RATE)
  np.testing.assert_array_equal(tokens.tokens["semantic"], encoded.semantic)
  np.testing.assert_array_equal(tokens.codes, encoded.codes)
  assert tokens.sample_rate == RATE
  assert {key: s.rate for key, s in tokens.streams.items()} == {"semantic": 25.0, "codes": 50.0}
  assert (tokens.bundle, tokens.token_hash) == ("miniature", miniature_bundle.token_hash)

  for levels in (4, 2):
    done = run_cli(
      "decode", tmp_path / "t.npz", "--output", tmp_path / "out.wav", "--bundle", folder,
      "--num_quantizers", levels,
    )  # fmt: skip
    assert done.code == 0, done.err
    waveform, rate = audio.read_audio(tmp_path / "out.wav")
    assert rate == RATE
    expected = miniature_bundle.decode(encoded.codes[:, :levels])
    np.testing.assert_allclose(waveform, expected, atol=1 / 32_000)


def test_joined_files_are_encoded_whole_with_one_warning(folder, wav, tmp_path, run_cli, caplog):
  (tmp_path / "joined.wav").write_bytes(wav.read_bytes() * 2)
  out = ("--output", tmp_path / "t.npz", "--bundle", folder)
  done = run_cli("encode", tmp_path / "joined.wav", *out)
  assert done.code == 0 and done.out.startswith("4.00 s: 100 semantic tokens"), done.err
  assert ["2 joined files" in record.getMessage() for record in caplog.records] == [True]


def test_errors_of_encode_are_one_line_and_write_no_file(folder, wav, tmp_path, run_cli):
  (tmp_path / "text.wav").write_text("no sound " * 50)
  soundfile.write(tmp_path / "short.wav", np.zeros(100), RATE)
  soundfile.write(tmp_path / "silent.wav", np.zeros((RATE, 2)), RATE)
  opposite = np.stack([melody(1.0), -melody(1.0)], axis=1)
  soundfile.write(tmp_path / "opposite.wav", opposite, RATE, subtype="FLOAT")
  out = ("--output", tmp_path / "t.npz")
  for arguments, words in [
    (("--bundle", folder, *out), "give one audio file, not 0"),
    ((wav, wav, "--bundle", folder, *out), "give one audio file, not 2"),
    ((wav, "--bundle", folder), "--output is required"),
    ((tmp_path / "no.wav", "--bundle", folder, *out), "no.wav does not exist"),
    ((tmp_path / "text.wav", "--bundle", folder, *out), "text.wav is not a supported"),
    ((tmp_path / "short.wav", "--bundle", folder, *out), "short.wav is 0.01 s long"),
    ((tmp_path / "silent.wav", "--bundle", folder, *out), "silent.wav is silent (its peak is 0.0"),
    ((tmp_path / "opposite.wav", "--bundle", folder, *out), "opposite.wav is silent"),
    ((wav, "--bundle", folder, "--output", wav), "in.wav would replace"),
    ((wav, "--bundle", "speech_huge", *out), "no bundle 'speech_huge'"),
    ((wav, "--bundle", folder, "--output", tmp_path / "no" / "t.npz"), "does not exist; create"),
  ]:
    done = run_cli("encode", *arguments)
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done.err
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    "in.wav",
    "opposite.wav",
    "short.wav",
    "silent.wav",
    "text.wav",
  ]


def test_errors_of_decode_are_one_line_and_write_no_file(
  miniature_bundle, folder, tmp_path, run_cli
):
  streams = {"semantic": np.zeros(5, int), "codes": np.zeros((10, 4), int)}
  tokens = token_files.of_bundle(miniature_bundle, streams)
  token_file.save_tokens(tmp_path / "t.npz", tokens)
  foreign = dataclasses.replace(tokens, token_hash="feed")
  token_file.save_tokens(tmp_path / "foreign.npz", foreign)
  np.savez(tmp_path / "other.npz", a=1)
  content = (tmp_path / "t.npz").read_bytes()
  (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
  (tmp_path / "text.npz").write_text("text")
  before = sorted(tmp_path.iterdir())
  out, with_bundle = ("--output", tmp_path / "out.wav"), ("--bundle", folder)
  for arguments, words in [
    ((*out, *with_bundle), "give one file of tokens, not 0"),
    ((tmp_path / "no.npz", *out), "no.npz does not exist"),
    ((tmp_path, *out), "is a folder"),
    ((tmp_path / "other.npz", *out), "contains no tokens"),
    ((tmp_path / "cut.npz", *out), "is damaged"),
    ((tmp_path / "text.npz", *out), "is damaged or not the tokens.npz"),
    ((tmp_path / "t.npz", *out), "'miniature', which is not a shipped one"),
    ((tmp_path / "foreign.npz", *out, *with_bundle), "has others"),
    ((tmp_path / "t.npz", *out, *with_bundle, "--num_quantizers", 9), "is not in 1..4"),
    ((tmp_path / "t.npz", *with_bundle), "--output is required"),
    ((tmp_path / "t.npz", *with_bundle, "--output", tmp_path / "a.txt"), "use one of .aif"),
  ]:
    done = run_cli("decode", *arguments)
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done.err
  assert sorted(tmp_path.iterdir()) == before


def test_an_unknown_flag_exits_with_2(run_cli):
  assert run_cli("encode", "a.wav", "--outptu", "t.npz").code == 2


@pytest.mark.slow
def test_an_hour_is_encoded_in_bounded_memory(folder, tmp_path):
  minute = np.tile(melody(1.0), 60)
  with soundfile.SoundFile(tmp_path / "hour.flac", "w", 44_100, 2) as file:
    for _ in range(60):
      block = audio.resample(minute, RATE, 44_100)
      file.write(np.stack([block, block], axis=1))
  program = (
    "import importlib, resource, sys; from audiolm_jax.core import command_line\n"
    "encode = importlib.import_module('audiolm_jax.encode')\n"
    "rest = encode.FLAGS(sys.argv)\n"
    "code = command_line.exit_code(encode.main, rest)\n"
    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024); sys.exit(code)\n"
  )
  out = ["--output", str(tmp_path / "t.npz"), "--bundle", str(folder)]
  done = subprocess.run(
    [sys.executable, "-c", program, str(tmp_path / "hour.flac"), *out],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert token_file.load_tokens(tmp_path / "t.npz").codes.shape == (180_000, 4)
  assert int(done.stdout.split()[-1]) < 2_000
