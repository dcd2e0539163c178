"""C2PA manifests: signed metadata stating that a trained algorithm generated an audio file.

A manifest contains a hash of the file, so changes of the audio can be detected. However, any
program can remove the manifest. The user provides the certificate and its private key. This module
needs the optional package c2pa-python.
"""

import dataclasses
import importlib
import importlib.util
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import soundfile  # pyright: ignore[reportMissingTypeStubs]: its types are in the module

from audiolm_jax.core.errors import UserError
from audiolm_jax.core.version import __version__

MISSING = "C2PA manifests need an extra: pip install 'c2pa-python>=0.38,<0.39'"
_MIME_TYPES = {".wav": "audio/wav", ".mp3": "audio/mpeg", ".flac": "audio/flac"}
# Source: IPTC, Digital Source Type NewsCodes.
_GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_OF_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclasses.dataclass(frozen=True, repr=False)
class Credentials:
  """The certificates and the private key that sign manifests.

  Attributes:
    certificates: certificate chain in PEM format; the certificate of the private key is the first.
    private_key: private key in PKCS #8, in PEM format.
    algorithm: C2PA name of the signature algorithm, such as "es256".
  """

  certificates: bytes
  private_key: bytes
  algorithm: str


def check_format(path: str | os.PathLike[str]) -> None:
  """Raises `UserError` if the extension of `path` is not .wav, .mp3 or .flac."""
  if Path(path).suffix.lower() not in _MIME_TYPES:
    known = ", ".join(_MIME_TYPES)
    raise UserError(f"cannot sign {path}; C2PA manifests are for {known}")


def read_credentials(
  certificate: str | os.PathLike[str], private_key: str | os.PathLike[str]
) -> Credentials:
  """Reads a certificate and its private key, and signs a test file to check them.

  Args:
    certificate: PEM file with the certificate and its issuers' certificates.
    private_key: PEM file with the certificate's private key, without a password.

  Raises:
    UserError: c2pa-python is missing, a file cannot be read, or the test file cannot be signed.
  """
  if importlib.util.find_spec("c2pa") is None:
    raise UserError(MISSING)
  chain, content = _read(certificate), _read(private_key)
  # The package cryptography is a dependency of c2pa-python; its annotations are not needed here.
  serialization = importlib.import_module("cryptography.hazmat.primitives.serialization")
  try:
    key = serialization.load_pem_private_key(content, password=None)
  except (ValueError, TypeError) as error:
    raise UserError(
      f"{private_key} is no private key in PEM without a password: {_line(error)}"
    ) from error
  pkcs8 = key.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
  )
  credentials = Credentials(chain, pkcs8, _algorithm(key, private_key))
  silence = io.BytesIO()
  soundfile.write(silence, np.zeros(160), 16_000, format="WAV")
  try:
    sign(silence.getvalue(), "check.wav", credentials)
  except UserError as error:
    raise UserError(f"{certificate} and {private_key} do not sign: {error}") from error
  return credentials


def sign(
  content: bytes, path: str | os.PathLike[str], credentials: Credentials, prompt: bool = False
) -> bytes:
  """Returns the content of an audio file with a signed manifest.

  Args:
    content: content of the file.
    path: path of the file; the file name is the title in the manifest, and the extension selects
      the format.
    credentials: certificates and private key for the signature.
    prompt: whether a part of the audio is a prompt that was not generated.

  Raises:
    UserError: the extension is not supported, or the manifest cannot be signed.
  """
  check_format(path)
  c2pa = importlib.import_module("c2pa")
  name = Path(path).name
  created = {
    "action": "c2pa.created",
    "digitalSourceType": _COMPOSITE if prompt else _GENERATED,
    "softwareAgent": {"name": "audiolm_jax", "version": __version__},
  }
  manifest = {
    "title": name,
    "claim_generator_info": [{"name": "audiolm_jax", "version": __version__}],
    "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
  }
  signed = io.BytesIO()
  # None: the manifest has no time stamp, because a time stamp server would have to sign it.
  info = c2pa.C2paSignerInfo(
    credentials.algorithm, credentials.certificates, credentials.private_key, None
  )
  try:
    with c2pa.Signer.from_info(info) as signer, c2pa.Builder(manifest) as builder:
      builder.sign(signer, _MIME_TYPES[Path(name).suffix.lower()], io.BytesIO(content), signed)
  except c2pa.C2paError as error:
    raise UserError(_line(error)) from error
  return signed.getvalue()


def _algorithm(key: Any, path: str | os.PathLike[str]) -> str:
  asymmetric = "cryptography.hazmat.primitives.asymmetric"
  ec, ed25519, rsa = (
    importlib.import_module(f"{asymmetric}.{name}") for name in ("ec", "ed25519", "rsa")
  )
  if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _OF_CURVES:
    return _OF_CURVES[key.curve.name]
  if isinstance(key, ed25519.Ed25519PrivateKey):
    return "ed25519"
  if isinstance(key, rsa.RSAPrivateKey):
    return "ps256"
  raise UserError(
    f"{path} is a {type(key).__name__}; C2PA has RSA, Ed25519 and the curves "
    f"{', '.join(_OF_CURVES)}"
  )


def _read(path: str | os.PathLike[str]) -> bytes:
  try:
    with open(path, "rb") as file:
      return file.read()
  except OSError as error:
    raise UserError(f"cannot read {path}: {error.strerror}") from error


def _line(error: Exception) -> str:
  return " ".join(str(error).split())
