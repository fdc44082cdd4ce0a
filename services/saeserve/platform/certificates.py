"""Certificates, keys and authorities as PEM files: read, and refused where they cannot serve."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from saeserve.errors import StartupError

CLOCK_LEEWAY = timedelta(minutes=5)
"""A certificate may be valid from this much later on: its maker's clock may run ahead."""
_MIN_RSA_BITS = 2048

T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """A certificate chain, leaf first, and its key, as PEM; `expires` is the leaf's."""

    chain: bytes
    key: bytes
    expires: datetime


def read_pair(certificate: Path, key: Path, now: datetime | None = None) -> Pair:
    """The certificate and its key. Raises StartupError for a pair that no client would accept."""
    chain, secret = read_file(certificate), read_file(key)
    leaf = _parsed(certificate, "certificate", lambda: x509.load_pem_x509_certificates(chain))[0]
    private = _parsed(key, "private key without a passphrase", lambda: _private_key(secret))
    if leaf.public_key() != private.public_key():
        raise _wrong(
            f"the key in {key} is not that of the certificate in {certificate}",
            reason="TLS_KEY_MISMATCH",
            remedy="write both files again; while they are replaced, replace the key first",
        )
    _check_strength(certificate, leaf)
    _check_dates(certificate, leaf, now or datetime.now(UTC))
    return Pair(chain, secret, leaf.not_valid_after_utc)


def read_authorities(path: Path) -> bytes:
    """The CA certificates in `path`, as PEM. Raises StartupError."""
    data = read_file(path)
    _parsed(path, "CA certificate", lambda: x509.load_pem_x509_certificates(data))
    return data


def read_file(path: Path) -> bytes:
    """The bytes of a file of a setting. Raises StartupError naming it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _wrong(
            f"{path} cannot be read: {error.strerror}",
            reason="TLS_FILE_UNREADABLE",
            remedy="correct the path, or let the service's user read the file",
        ) from error


def host_of(leaf: bytes) -> str:
    """A name or address that the certificate (PEM) is valid for; "" when it has none."""
    certificate = x509.load_pem_x509_certificate(leaf)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    # A wildcard stands for any one label.
    hosts = [name.replace("*", "any") for name in names.get_values_for_type(x509.DNSName)]
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = [
        each
        for each in names.get_values_for_type(x509.IPAddress)
        if isinstance(each, ipaddress.IPv4Address | ipaddress.IPv6Address)
    ]
    return next(iter([*hosts, *map(str, addresses)]), "")


def _private_key(data: bytes) -> PrivateKeyTypes:
    return load_pem_private_key(data, password=None)


def _parsed(path: Path, what: str, parse: Callable[[], T]) -> T:
    try:
        return parse()
    # TypeError: the key has a passphrase.
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _wrong(
            f"{path} holds no {what} in PEM form",
            reason="TLS_BAD_PEM",
            remedy="write a PEM file: BEGIN CERTIFICATE, leaf first, or BEGIN PRIVATE KEY",
        ) from None


def _check_strength(path: Path, leaf: x509.Certificate) -> None:
    key = leaf.public_key()
    if isinstance(key, RSAPublicKey) and key.key_size < _MIN_RSA_BITS:
        raise _wrong(
            f"the certificate in {path} has an RSA key of {key.key_size} bits",
            reason="TLS_WEAK_KEY",
            remedy=f"make one of at least {_MIN_RSA_BITS} bits, or an elliptic-curve key",
        )


def _check_dates(path: Path, leaf: x509.Certificate, now: datetime) -> None:
    if now > leaf.not_valid_after_utc:
        raise _wrong(
            f"the certificate in {path} expired at {leaf.not_valid_after_utc.isoformat()}",
            reason="TLS_CERTIFICATE_EXPIRED",
            remedy="renew it, or correct this machine's clock",
        )
    if now + CLOCK_LEEWAY < leaf.not_valid_before_utc:
        raise _wrong(
            f"the certificate in {path} is valid from {leaf.not_valid_before_utc.isoformat()} on",
            reason="TLS_CERTIFICATE_NOT_YET_VALID",
            remedy="correct this machine's clock, or take another certificate",
        )


def _wrong(message: str, reason: str, remedy: str) -> StartupError:
    return StartupError(message, code=reason, remedy=remedy)
