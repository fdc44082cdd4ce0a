"""Secrets from files: read, or refused without being shown."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from saeserve.errors import StartupError
from saeserve.platform.secret_files import read_secret, with_password
from saeserve.platform.settings import ServiceSettings

GOOD = "3f1c7be09d52a6e48b7d"


def written(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = folder / "password"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return path


@pytest.mark.parametrize("text", [GOOD, f"{GOOD}\n", f"{GOOD}\r\n"])
def test_the_end_of_the_line_is_no_part_of_a_secret(text: str, tmp_path: Path) -> None:
    assert read_secret(written(tmp_path, text)) == GOOD


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "SECRET_MISSING"),
        ("\n", "SECRET_MISSING"),
        ("hunter2", "SECRET_WEAK"),
        ("changeme-changeme", "SECRET_WEAK"),
        ("<your password here>", "SECRET_WEAK"),
        ("${REDIS_PASSWORD_UNSET}", "SECRET_WEAK"),
        ("aaaaaaaaaaaaaaaa", "SECRET_WEAK"),
        ("0101010101010101", "SECRET_WEAK"),
        ("k9x2m7k9x2m7k9x2m7", "SECRET_WEAK"),
        ("12345678901234567890", "SECRET_WEAK"),
        ("Qwertyuiop[]", "SECRET_WEAK"),
        ("default-for-now-42", "SECRET_WEAK"),
        (f"{GOOD} # the one of staging", "SECRET_MALFORMED"),
        (f"{GOOD}\n{GOOD}\n", "SECRET_MALFORMED"),
        (f"{GOOD}\0", "SECRET_MALFORMED"),
        (b"\xff\xfe\x00 a long one", "SECRET_UNREADABLE"),
    ],
)
def test_what_is_missing_or_easily_guessed_is_refused(
    text: str | bytes, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(StartupError) as caught:
        read_secret(written(tmp_path, text))
    assert caught.value.code == reason
    assert str(tmp_path) in caught.value.message
    shown = caught.value.text()
    assert not text or not str(text).strip() or str(text) not in shown


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be read: No such file"):
        read_secret(tmp_path / "absent")


def test_a_secret_that_everybody_can_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        read_secret(written(tmp_path, GOOD, 0o600))
        assert not caplog.records
        read_secret(written(tmp_path, GOOD, 0o644))
    assert "chmod 600" in caplog.text
    assert GOOD not in caplog.text


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("redis://valkey:6379/0", "redis://:a%2Fb%40c@valkey:6379/0"),
        ("rediss://me@valkey/1?x=1", "rediss://me:a%2Fb%40c@valkey/1?x=1"),
        ("unix:///run/v.sock?db=1", "unix://:a%2Fb%40c@/run/v.sock?db=1"),
    ],
)
def test_a_password_goes_into_the_url(url: str, whole: str) -> None:
    assert with_password(url, "a/b@c") == whole


def test_two_passwords_are_refused() -> None:
    with pytest.raises(StartupError, match="holds a password, and so does") as caught:
        with_password("redis://me:inurl@valkey", GOOD)
    assert "inurl" not in caught.value.text()


def test_settings_read_the_password_of_redis_from_its_file(tmp_path: Path) -> None:
    settings = ServiceSettings(
        redis_url="redis://me@valkey:6379/0", redis_password_file=written(tmp_path, GOOD)
    )
    assert settings.broker_url == f"redis://me:{GOOD}@valkey:6379/0"
