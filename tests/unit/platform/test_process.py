"""Children end with their parent, and services end with the right status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from saeserve.errors import StartupError
from saeserve.platform import process, service


def alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().split()[2] != "Z"


def test_a_bound_command_becomes_the_program() -> None:
    command = process.bound_command([sys.executable, "-c", "print('here')"])
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "here\n"


def test_a_bound_command_dies_with_its_parent() -> None:
    parent = (
        "import subprocess, sys, time\n"
        "from saeserve.platform.process import bound_command\n"
        'program = \'import sys, time; sys.stdout.write("up\\\\n"); sys.stdout.flush(); '
        "time.sleep(100)'\n"
        "child = subprocess.Popen(bound_command([sys.executable, '-c', program]), "
        "stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "sys.stdout.write(f'{child.pid}\\n'); sys.stdout.flush()\n"
        "time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        child = int(running.stdout.readline())
        assert alive(child)
        running.send_signal(signal.SIGKILL)
        running.wait()
    for _ in range(500):
        if not alive(child):
            return
        time.sleep(0.02)
    pytest.fail(f"process {child} outlived its parent")


def test_a_parent_that_has_gone_is_noticed() -> None:
    with pytest.raises(ProcessLookupError, match="has gone"):
        # A signal number of 0 clears the binding, so that this process stays unbound.
        process.die_with_parent(os.getpid(), 0)


def test_a_program_of_a_parent_that_has_gone_is_not_started() -> None:
    command = process.bound_command([sys.executable, "-c", "print('started')"])
    command[command.index(str(os.getpid()))] = str(os.getppid())
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_service_that_cannot_start_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main() -> None:
        raise StartupError("port 1 is taken", remedy="free it")

    with pytest.raises(SystemExit) as caught:
        service.run("control", main)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "saeserve control: port 1 is taken — free it\n"


def test_a_service_that_returns_ends_well() -> None:
    with pytest.raises(SystemExit) as caught:
        service.run("control", lambda: None)
    assert caught.value.code == 0
