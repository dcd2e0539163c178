"""Token files that `decode` refuses in one line, before a bundle is loaded."""

import io
import json
import zipfile

import numpy as np
import pytest

from audiolm_jax.core.errors import DataError
from audiolm_jax.core.streams import Stream
from audiolm_jax.io import token_file

STREAMS = {"semantic": Stream("semantic", 16, 25.0), "codes": Stream("codes", 16, 50.0, 4)}


@pytest.fixture
def path(tmp_path):
  rng = np.random.default_rng(0)
  tokens = {"semantic": rng.integers(0, 16, 25), "codes": rng.integers(0, 16, (50, 4))}
  written = token_file.TokenFile(tokens, STREAMS, 16_000, "speech", "0123456789abcdef")
  token_file.save_tokens(tmp_path / "t.npz", written)
  return tmp_path / "t.npz"


def arrays(**changes):
  """Replaces arrays of a file."""

  def change(path):
    with np.load(path) as stored:
      content = dict(stored)
    np.savez_compressed(path, **(content | changes))

  return change


def streams(change):
  def changed(path):
    with np.load(path) as stored:
      plain = json.loads(str(stored["streams"]))
    arrays(streams=np.array(json.dumps(change(plain))))(path)

  return changed


def huge(path):
  """Declares 10^9 rows of 12 codes in a file of a few bytes."""
  file = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    file, {"descr": "<i4", "fortran_order": False, "shape": (10**9, 12)}
  )
  with zipfile.ZipFile(path) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, content in (members | {"stream:codes.npy": file.getvalue()}).items():
      archive.writestr(name, content)


def flip(path):
  content = bytearray(path.read_bytes())
  at = content.index(b"stream:codes") + 40
  content[at] ^= 0x10
  path.write_bytes(content)


@pytest.mark.parametrize(
  "change, words",
  [
    (huge, "needs 48000000128 bytes and has 128"),
    (arrays(**{"stream:codes": np.zeros((40_000_000, 4), np.int32)}), "would take 640"),
    (flip, "is damaged or not the tokens.npz"),
    (arrays(**{"stream:codes": np.zeros((5, 4))}), "is float64 of shape"),
    (arrays(**{"stream:codes": np.zeros((5, 9), np.int32)}), "has 9 levels, not 1 to 4"),
    (arrays(**{"stream:codes": np.full((5, 4), 16)}), r"ranges over 16\.\.16, not 0\.\.15"),
    (arrays(**{"stream:codes": np.full((5, 4), -1)}), r"ranges over -1\.\.-1"),
    (arrays(**{"stream:codes": np.zeros((0, 4), np.int32)}), "codes is empty"),
    (arrays(sample_rate=10**9), "the sample rate is 1000000000; it must be 1_000 to 768_000"),
    (arrays(bundle=np.array("\x1b[2J")), "cannot be printed"),
    (arrays(streams=np.array("[" * 5000)), "nested|JSON"),
    (streams(lambda s: s | {"codes": 7}), "it must be a JSON object"),
    (streams(lambda s: {"semantic": s["semantic"]}), "'codes' is missing"),
    (streams(lambda s: s | {"other": s["codes"]}), "the stream 'other' is described as 'codes'"),
    (streams(lambda s: s | {"codes": s["codes"] | {"rate": "fast"}}), "rate is 'fast'; it must"),
    (streams(lambda s: s | {"codes": s["codes"] | {"role": [1]}}), "it must be one of target"),
  ],
)
def test_a_file_that_is_not_what_it_declares_is_refused(path, tmp_path, run_cli, change, words):
  change(path)
  done = run_cli("decode", path, f"--output={tmp_path / 'a.wav'}")
  assert done.code == 2 and not (tmp_path / "a.wav").exists()
  assert done.err.startswith("error: ") and done.err.count("\n") == 1
  with pytest.raises(DataError, match=words):
    token_file.load_tokens(path)


def test_codes_of_the_first_levels_are_read(path):
  arrays(**{"stream:codes": np.ones((5, 2), np.int32)})(path)
  assert token_file.load_tokens(path).codes.shape == (5, 2)
