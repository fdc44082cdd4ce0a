"""Children that do not outlive their parent.

Run as a file (`python process.py PARENT_PID program args...`) it binds itself to the parent and
then becomes the program; so it imports the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_ARG_START = 45
"""Index of arg_start among the fields after the name in /proc/self/stat."""


def die_with_parent(parent: int, signal_number: int = signal.SIGTERM) -> None:
    """Have the kernel send this process `signal_number` when the parent `parent` is gone.

    Linux binds this to the *thread* that started the child: start children from a thread that
    lives as long as they should. Elsewhere only the parent's presence now is checked.
    Raises ProcessLookupError when the parent has gone already.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        raise ProcessLookupError(f"parent process {parent} has gone")


def show_command(command: Sequence[str]) -> bool:
    """Show `command` as this process's command line, to `ps` and in /proc.

    Linux, and where the one it was started with is longer; else nothing changes, and False.
    """
    shown = b"".join(word.encode() + b"\0" for word in command)
    try:
        stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    start, end = int(stat[_ARG_START]), int(stat[_ARG_START + 1])
    if len(shown) > end - start:
        return False
    ctypes.memmove(start, shown.ljust(end - start, b"\0"), end - start)
    return True


def bound_command(command: Sequence[str]) -> list[str]:
    """`command`, to be started by this process and to end with it, whatever program it is."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


if __name__ == "__main__":
    try:
        die_with_parent(int(sys.argv[1]))
    except ProcessLookupError:
        # Nobody is left who wants the program, or who would read why it does not start.
        sys.exit(0)
    os.execv(sys.argv[2], sys.argv[2:])
