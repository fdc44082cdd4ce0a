"""Which certificates and keys a server takes, and why it refuses the others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from tests.fakes.certificates import Authority, CertificateFiles, self_signed

from saeserve.errors import StartupError
from saeserve.platform.certificates import host_of, read_authorities, read_pair


def test_a_pair_is_read_with_its_expiry(tmp_path: Path) -> None:
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    files = Authority(tmp_path).issue(expires=expires)
    pair = read_pair(files.certificate, files.key)
    assert (pair.expires, pair.chain, pair.key) == (
        expires,
        files.certificate.read_bytes(),
        files.key.read_bytes(),
    )


def missing(folder: Path) -> CertificateFiles:
    return CertificateFiles(folder / "no.crt", folder / "no.key")


def swapped(folder: Path) -> CertificateFiles:
    made = self_signed(folder)
    return CertificateFiles(made.key, made.certificate)


def mixed(folder: Path) -> CertificateFiles:
    authority = Authority(folder)
    return CertificateFiles(authority.issue().certificate, authority.issue().key)


def garbage(folder: Path) -> CertificateFiles:
    made = self_signed(folder)
    made.certificate.write_bytes(
        b"-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----"
    )
    return made


def empty(folder: Path) -> CertificateFiles:
    made = self_signed(folder)
    made.key.write_bytes(b"")
    return made


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (missing, "TLS_FILE_UNREADABLE"),
        (swapped, "TLS_BAD_PEM"),
        (garbage, "TLS_BAD_PEM"),
        (empty, "TLS_BAD_PEM"),
        (mixed, "TLS_KEY_MISMATCH"),
        (partial(self_signed, passphrase=b"open sesame"), "TLS_BAD_PEM"),
        (partial(self_signed, rsa_bits=1024), "TLS_WEAK_KEY"),
        (
            partial(self_signed, begins_in=timedelta(days=-2)),
            "TLS_CERTIFICATE_EXPIRED",
        ),
        (
            partial(self_signed, begins_in=timedelta(hours=1)),
            "TLS_CERTIFICATE_NOT_YET_VALID",
        ),
    ],
)
def test_what_cannot_serve_is_refused_by_name(
    make: Callable[[Path], CertificateFiles], reason: str, tmp_path: Path
) -> None:
    files = make(tmp_path)
    with pytest.raises(StartupError) as caught:
        read_pair(files.certificate, files.key)
    assert caught.value.code == reason
    assert str(tmp_path) in caught.value.message
    assert caught.value.remedy


def test_a_clock_that_lags_a_little_takes_a_new_certificate(tmp_path: Path) -> None:
    files, made = self_signed(tmp_path), datetime.now(UTC)
    read_pair(files.certificate, files.key, now=made - timedelta(minutes=4))
    with pytest.raises(StartupError, match="valid from"):
        read_pair(files.certificate, files.key, now=made - timedelta(minutes=6))


def test_authorities_are_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    assert read_authorities(authority.ca) == authority.ca.read_bytes()
    with pytest.raises(StartupError, match="no CA certificate"):
        read_authorities(authority.issue().key)


@pytest.mark.parametrize(
    ("hosts", "found"),
    [(("control", "10.0.0.1"), "control"), (("*.saes",), "any.saes"), (("10.0.0.1",), "10.0.0.1")],
)
def test_a_name_of_a_certificate(hosts: tuple[str, ...], found: str, tmp_path: Path) -> None:
    assert host_of(Authority(tmp_path).issue(*hosts).certificate.read_bytes()) == found


def test_a_certificate_without_names_has_none(tmp_path: Path) -> None:
    assert host_of(self_signed(tmp_path).certificate.read_bytes()) == ""
