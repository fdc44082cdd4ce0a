"""The command line as a person meets it: exit code, stdout and stderr of a command."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from saeserve.cli import __main__ as entry

COMMAND = (sys.executable, "-m", "saeserve.cli")


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def line(self) -> str:
        """The one line on stderr."""
        [line] = self.err.splitlines()
        return line


def run_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> Ran:
    """The command in this process; its output goes into pipes."""
    monkeypatch.setattr(sys, "argv", ["saeserve", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        entry.main()
    seen = capsys.readouterr()
    code = ended.value.code
    return Ran(code if isinstance(code, int) else 0, seen.out, seen.err)


def on_terminal(
    words: tuple[str, ...], columns: int, environment: Mapping[str, str], here: Path
) -> tuple[int, str]:
    """Exit code and screen of a command in a terminal of so many columns."""
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    own = {key: value for key, value in environment.items() if key not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [*COMMAND, *words], stdin=other, stdout=other, stderr=other, cwd=here,
        env={**own, "TERM": "xterm", "NO_COLOR": "1"},
    )  # fmt: skip
    os.close(other)
    shown = b""
    try:
        while block := os.read(main, 65536):
            shown += block
    except OSError:  # the terminal is gone with its last process
        pass
    finally:
        os.close(main)
    return process.wait(300), shown.decode().replace("\r\n", "\n")
