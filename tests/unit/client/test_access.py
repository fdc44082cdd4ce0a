"""TLS of the SDK: which addresses have it, and which files it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.certificates import Authority, self_signed

from saeserve.client.access import PLAIN, Access
from saeserve.client.channel import open_channel, secure_target
from saeserve.client.errors import InvalidArgumentError

CA = Access(ca=Path("ca.pem"))


@pytest.mark.parametrize(
    ("address", "access", "target"),
    [
        ("127.0.0.1:7070", PLAIN, None),
        ("sae.test:7070", PLAIN, None),
        ("sae.test:7070", CA, "sae.test:7070"),
        ("127.0.0.1:7070", CA, "127.0.0.1:7070"),
        ("https://sae.test:7070", PLAIN, "sae.test:7070"),
        ("grpcs://sae.test:7070/", PLAIN, "sae.test:7070"),
        ("https://[::1]:7070", CA, "[::1]:7070"),
        ("unix:/run/control.sock", CA, None),
    ],
)
def test_which_addresses_are_called_over_tls(
    address: str, access: Access, target: str | None
) -> None:
    assert secure_target(address, access) == target


def half(folder: Path) -> Access:
    return Access(certificate=self_signed(folder).certificate)


def absent(folder: Path) -> Access:
    return Access(ca=folder / "absent.pem")


def no_ca(folder: Path) -> Access:
    return Access(ca=self_signed(folder).key)


def not_text(folder: Path) -> Access:
    (folder / "der").write_bytes(b"\xff\x00")
    return Access(ca=folder / "der")


def mixed(folder: Path) -> Access:
    authority = Authority(folder)
    return Access(authority.ca, authority.issue().certificate, authority.issue().key)


def locked(folder: Path) -> Access:
    files = self_signed(folder, passphrase=b"open sesame")
    return Access(certificate=files.certificate, key=files.key)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (half, "certificate"),
        (absent, "ca"),
        (no_ca, "ca"),
        (not_text, "ca"),
        (mixed, "certificate"),
        (locked, "certificate"),
    ],
)
def test_files_that_cannot_be_are_named_before_any_call(
    make: Callable[[Path], Access], field: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        open_channel("https://sae.test:7070", make(tmp_path))
    assert (caught.value.reason, caught.value.field) == ("BAD_TLS_FILE", field)
    assert caught.value.remedy
