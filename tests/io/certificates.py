"""A certificate authority, and a certificate for signing that it issued, made on the spot."""

import datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PEM = serialization.Encoding.PEM


def write_chain(folder: Path, key: Any = None) -> tuple[Path, Path, bytes]:
  """Writes a chain and the key of its first certificate; returns the files and the root."""
  root_key, key = ec.generate_private_key(ec.SECP256R1()), key or new_key()
  root = _certificate("Root", root_key, "Root", root_key, is_authority=True)
  leaf = _certificate("Signer", key, "Root", root_key, is_authority=False)
  chain, private = folder / "chain.pem", folder / "key.pem"
  chain.write_bytes(leaf.public_bytes(PEM) + root.public_bytes(PEM))
  private.write_bytes(key_content(key))
  return chain, private, root.public_bytes(PEM)


def new_key() -> ec.EllipticCurvePrivateKey:
  return ec.generate_private_key(ec.SECP256R1())


def key_content(key: Any, password: bytes | None = None) -> bytes:
  """The key in the older of the two formats of PEM files."""
  how = serialization.NoEncryption()
  if password is not None:
    how = serialization.BestAvailableEncryption(password)
  traditional = serialization.PrivateFormat.TraditionalOpenSSL
  return key.private_bytes(PEM, traditional, how)


def _name(common: str) -> x509.Name:
  fields = {NameOID.ORGANIZATION_NAME: "Test", NameOID.COMMON_NAME: common}
  return x509.Name([x509.NameAttribute(key, value) for key, value in fields.items()])


def _certificate(
  subject: str, key: Any, issuer: str, issuer_key: Any, *, is_authority: bool
) -> x509.Certificate:
  now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
  usage = x509.KeyUsage(
    digital_signature=not is_authority,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=is_authority,
    crl_sign=is_authority,
    encipher_only=False,
    decipher_only=False,
  )
  public, issued_by = key.public_key(), issuer_key.public_key()
  extensions: list[tuple[Any, bool]] = [
    (x509.BasicConstraints(is_authority, None), True),
    (usage, True),
    (x509.SubjectKeyIdentifier.from_public_key(public), False),
    (x509.AuthorityKeyIdentifier.from_issuer_public_key(issued_by), False),
  ]
  if not is_authority:
    extensions.append((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False))
  builder = (
    x509.CertificateBuilder()
    .subject_name(_name(subject))
    .issuer_name(_name(issuer))
    .public_key(public)
    .serial_number(x509.random_serial_number())
    .not_valid_before(now - day)
    .not_valid_after(now + day)
  )
  for extension, critical in extensions:
    builder = builder.add_extension(extension, critical)
  return builder.sign(issuer_key, hashes.SHA256())
