"""TLS of the SDK: which addresses have it, and which files it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.certificates import Authority, self_signed

from saeserve.client.access import PLAIN, Access
from saeserve.client.channel import open_channel, secure_target
from saeserve.client.errors import InvalidArgumentError
from saeserve.client.tokens import TokenSource

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


TOKEN = f"sae_{'0' * 16}_{'1' * 64}"


@pytest.mark.parametrize(
    "address", ["sae.test:7070", "10.0.0.1:7070", "0.0.0.0:7070", "dns:///sae.test:7070", "[::]:1"]
)
def test_a_token_is_not_sent_where_others_could_read_it(address: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        open_channel(address, Access(token=TOKEN))
    assert caught.value.reason == "TOKEN_OVER_PLAINTEXT"
    assert TOKEN not in str(caught.value)
    open_channel(f"https://{address}", Access(token=TOKEN)).close()


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "127.1.2.3:1", "localhost:1", "[::1]:1", "unix:/run/s"]
)
def test_a_token_is_sent_to_this_machine(address: str) -> None:
    open_channel(address, Access(token=TOKEN)).close()


@pytest.mark.parametrize("token", ["changeme", TOKEN[:-1], TOKEN + "0", f"Bearer {TOKEN}", " "])
def test_what_is_no_token_is_refused_unseen(token: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    for access in (Access(token=token), Access(token_file=file)):
        with pytest.raises(InvalidArgumentError) as caught:
            open_channel("127.0.0.1:1", access)
        assert caught.value.reason == "BAD_TOKEN"
        assert token.strip() == "" or token not in str(caught.value)


def test_a_missing_token_file_and_two_tokens_are_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be read: No such file"):
        TokenSource("", tmp_path / "absent")
    with pytest.raises(InvalidArgumentError, match="a token and a file"):
        TokenSource(TOKEN, tmp_path / "absent")


def test_a_token_file_is_read_anew_when_it_changes(tmp_path: Path) -> None:
    file, other = tmp_path / "token", TOKEN.replace("1", "2")
    file.write_text(TOKEN)
    source = TokenSource("", file)
    assert source.token() == TOKEN
    (tmp_path / "new").write_text(f"{other}\n")
    (tmp_path / "new").replace(file)
    assert source.token() == other


def test_a_token_is_not_shown() -> None:
    assert TOKEN not in repr(Access(token=TOKEN))
