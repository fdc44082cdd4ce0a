"""Certificates of a CA of the tests' own, as files."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from saeserve.platform.tls_files import TlsFiles

HOSTS = ("localhost", "127.0.0.1")


@dataclass(frozen=True)
class CertificateFiles:
    """A certificate chain and its key."""

    certificate: Path
    key: Path

    def become(self, other: CertificateFiles) -> None:
        """Take the content of `other`, as a renewal does: whole files, one after the other."""
        for mine, theirs in ((self.key, other.key), (self.certificate, other.certificate)):
            staged = mine.with_suffix(".new")
            shutil.copyfile(theirs, staged)
            os.replace(staged, mine)


class Authority:
    """A CA; `ca` is the file with its certificate."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._made = 0
        self._ca = trustme.CA()
        self.ca = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.ca))
        self._name = name

    def issue(self, *hosts: str, expires: datetime | None = None) -> CertificateFiles:
        """A certificate for `hosts`; without any, for those of this machine."""
        self._made += 1
        made = self._ca.issue_cert(*(hosts or HOSTS), not_after=expires)
        certificate = self._folder / f"{self._name}-{self._made}.crt"
        key = self._folder / f"{self._name}-{self._made}.key"
        certificate.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        made.private_key_pem.write_to_path(str(key))
        key.chmod(0o600)
        return CertificateFiles(certificate, key)

    def tls(self, clients: Path | None = None, expires: datetime | None = None) -> TlsFiles:
        """What a server's TLS is made of; with `clients` it asks for certificates of that CA."""
        pair = self.issue(expires=expires)
        return TlsFiles(pair.certificate, pair.key, clients)


def self_signed(
    folder: Path, *, begins_in: timedelta = timedelta(0), rsa_bits: int = 0, passphrase: bytes = b""
) -> CertificateFiles:
    """A certificate that no CA stands behind, with what is wrong about it."""
    key = (
        rsa.generate_private_key(65537, rsa_bits)
        if rsa_bits
        else ec.generate_private_key(ec.SECP256R1())
    )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    begin = datetime.now(UTC) + begins_in
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    hidden = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    files = CertificateFiles(folder / "self.crt", folder / "self.key")
    files.certificate.write_bytes(certificate.public_bytes(pem))
    files.key.write_bytes(key.private_bytes(pem, pkcs8, hidden))
    return files
