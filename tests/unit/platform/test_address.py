"""Which addresses are read, and which are allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from saeserve.errors import StartupError
from saeserve.platform.address import TcpAddress, check_allowed, parse_tcp, unix_path


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:7070", "127.0.0.1", 7070), ("[::1]:0", "::1", 0), ("localhost:1", "localhost", 1)],
)
def test_tcp_addresses_round_trip(text: str, host: str, port: int) -> None:
    address = parse_tcp(text)
    assert address == TcpAddress(host, port)
    assert str(address) == text


@pytest.mark.parametrize("text", ["7070", "host", ":7070", "host:", "host:x", "host:70000", ""])
def test_other_texts_are_no_addresses(text: str) -> None:
    with pytest.raises(StartupError, match="is not a valid address"):
        parse_tcp(text)


@pytest.mark.parametrize(
    "text", ["127.0.0.1:1", "127.8.0.1:1", "[::1]:1", "localhost:1", "unix:/a", "unix:///a"]
)
def test_loopback_and_unix_are_allowed(text: str) -> None:
    check_allowed(text, insecure=False)


@pytest.mark.parametrize("text", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1"])
def test_what_others_reach_needs_insecure(text: str) -> None:
    with pytest.raises(StartupError, match="no TLS"):
        check_allowed(text, insecure=False)
    check_allowed(text, insecure=True)


def test_both_forms_of_a_unix_address() -> None:
    assert unix_path("unix:/run/a.sock") == Path("/run/a.sock")
    assert unix_path("unix:///run/a.sock") == Path("/run/a.sock")
    assert unix_path("127.0.0.1:1") is None
