"""Uploads and downloads: bar, percent and time left at every width, readable lines in a log."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console
from rich.text import Text

from saeserve.cli import transferring

MIB = 2**20
TOTAL = 300 * MIB
NAME = "model/a-rather-long-folder/activations.safetensors"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by half a second each time that it is read."""

    class Clock(datetime):
        at = datetime(2026, 1, 1, tzinfo=UTC)

        @classmethod
        def now(cls, tz: object = None) -> datetime:  # pyright: ignore[reportIncompatibleMethodOverride]
            del tz
            cls.at += timedelta(seconds=0.5)
            return cls.at

    monkeypatch.setattr(transferring, "datetime", Clock)


def move(out: io.StringIO, width: int, name: str, *, terminal: bool, upto: int = TOTAL) -> None:
    console = Console(file=out, width=width, force_terminal=terminal, no_color=True)
    with transferring.shown(console) as progress:
        for done in range(0, upto + 1, 2 * MIB):
            progress(name, done, TOTAL)


@pytest.mark.parametrize("name", ["acts.npy", NAME])
@pytest.mark.parametrize(
    ("width", "figures"), [(120, "150.0 MiB of 300.0 MiB"), (80, "150.0 MiB"), (40, "")]
)
def test_a_terminal_has_a_bar(width: int, figures: str, name: str) -> None:
    out = io.StringIO()
    move(out, width, name, terminal=True, upto=TOTAL // 2)
    text = Text.from_ansi(out.getvalue()).plain.splitlines()
    last = next(line for line in reversed(text) if "%" in line)
    assert len(last) <= width
    assert "━" in last
    assert " 50%" in last
    assert "37s" in last or "38s" in last
    assert figures in last or name == NAME


@pytest.mark.parametrize("width", [80, 40])
def test_a_log_has_whole_lines_and_not_too_many(width: int) -> None:
    out = io.StringIO()
    move(out, width, NAME, terminal=False)
    told = out.getvalue().splitlines()
    assert all(NAME in line and " of 300.0 MiB" in line for line in told)
    assert told[-1].startswith("100%")
    assert any("s left" in line for line in told[:-1])
    assert 5 <= len(told) <= 20
    assert "━" not in out.getvalue()


def test_what_is_there_at_once_is_one_line() -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=False)
    with transferring.shown(console) as progress:
        progress("x.npy", 0, 512)
        progress("x.npy", 512, 512)
    assert out.getvalue() == "100% x.npy  512 B of 512 B  512 B/s\n"
