"""Signed files, verified by the reader of the library, which knows nothing of this package."""

import io
from typing import Any

import numpy as np
import pytest
import soundfile

from audiolm_jax.core.errors import UserError
from audiolm_jax.io import audio, content_credentials
from audiolm_jax.io.content_credentials import read_credentials, sign
from audiolm_jax.io.provenance import Provenance, read_provenance
from tests.conftest import melody

RATE = 16_000
TAGS = Provenance("speech", "0123", "continuation", 7, 0, 3.0, "codec").tags()


@pytest.fixture(scope="module")
def c2pa():
  return pytest.importorskip("c2pa", reason="needs the extra c2pa")


def read(c2pa, content, mime_type, root=None):
  """The state of a file, and the digital source type that its manifest states."""
  context = None
  if root is not None:
    trust = {"trust": {"trust_anchors": root.decode()}, "verify": {"verify_trust": True}}
    context = c2pa.Context(c2pa.Settings.from_dict(trust))
  with c2pa.Reader(mime_type, io.BytesIO(content), context=context) as reader:
    (actions,) = [
      entry["data"]["actions"]
      for entry in reader.get_active_manifest()["assertions"]
      if entry["label"].startswith("c2pa.actions")
    ]
    (action,) = actions
    assert action["action"] == "c2pa.created"
    return reader.get_validation_state(), action["digitalSourceType"].rsplit("/")[-1]


@pytest.mark.parametrize(
  ("extension", "mime_type"),
  [(".wav", "audio/wav"), (".mp3", "audio/mpeg"), (".flac", "audio/flac")],
)
def test_a_signed_file_is_verified_by_another_reader_and_keeps_sound_and_tags(
  c2pa, tmp_path, extension, mime_type
):
  from tests.io.certificates import write_chain

  chain, key, root = write_chain(tmp_path)
  credentials = read_credentials(chain, key)
  plain, path = tmp_path / f"plain{extension}", tmp_path / f"signed{extension}"
  audio.write_audio(plain, melody(1.0), RATE, TAGS)
  audio.write_audio(path, melody(1.0), RATE, TAGS, lambda c: sign(c, path, credentials))
  content = path.read_bytes()
  assert read(c2pa, content, mime_type, root) == ("Trusted", "trainedAlgorithmicMedia")
  assert read(c2pa, content, mime_type)[0] == "Valid"  # by an authority that nobody knows
  for one, other in zip(soundfile.read(path), soundfile.read(plain), strict=True):
    np.testing.assert_array_equal(one, other)
  assert read_provenance(path) == read_provenance(plain) is not None
  with_prompt = sign(plain.read_bytes(), path, credentials, prompt=True)
  assert read(c2pa, with_prompt, mime_type)[1] == "compositeWithTrainedAlgorithmicMedia"
  changed = bytearray(content)
  changed[len(content) // 2] ^= 1
  assert read(c2pa, bytes(changed), mime_type, root)[0] == "Invalid"


def test_keys_of_each_kind_sign(c2pa, tmp_path):
  from cryptography.hazmat.primitives.asymmetric import ec, rsa

  from tests.io.certificates import write_chain

  for key, algorithm in (
    (ec.generate_private_key(ec.SECP384R1()), "es384"),
    (rsa.generate_private_key(65_537, 2_048), "ps256"),
  ):
    assert read_credentials(*write_chain(tmp_path, key)[:2]).algorithm == algorithm


def test_files_that_cannot_sign_are_refused_in_one_line(c2pa, tmp_path):
  from cryptography.hazmat.primitives.asymmetric import ec

  from tests.io.certificates import key_content, new_key, write_chain

  chain, key, root = write_chain(tmp_path)
  bad = tmp_path / "bad.pem"

  def file_of(content):
    bad.write_bytes(content)
    return bad

  for certificate, private, words in (
    (tmp_path / "none.pem", key, "cannot read"),
    (chain, file_of(b"text"), "is no private key in PEM without a password"),
    (chain, lambda: file_of(key_content(new_key(), b"secret")), "without a password"),
    (chain, lambda: file_of(key_content(new_key())), "do not sign: .*does not match"),
    (lambda: file_of(root), key, "do not sign"),
    (lambda: file_of(b"text"), key, "do not sign"),
    (chain, lambda: file_of(key_content(ec.generate_private_key(ec.SECP256K1()))), "C2PA has RSA"),
  ):
    given: list[Any] = [one() if callable(one) else one for one in (certificate, private)]
    with pytest.raises(UserError, match=words) as caught:
      read_credentials(*given)
    assert "\n" not in str(caught.value)


def test_the_package_and_the_format_are_checked(monkeypatch):
  with pytest.raises(UserError, match=r"cannot sign a\.ogg; C2PA manifests are for \.wav"):
    content_credentials.check_format("a.ogg")
  monkeypatch.setattr(content_credentials.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="need an extra: pip install"):
    read_credentials("chain.pem", "key.pem")
