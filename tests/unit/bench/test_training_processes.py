"""Reading /proc: CPU time by service, memory, the kind of machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bench.training import processes
from bench.training.machine import first, machine
from bench.training.memory import field, peak_bytes, resident_bytes
from bench.training.processes import JOB, TICKS, Account, Process, running

STAT = "77 (a (b) c) S 12 0 0 0 0 0 0 0 0 0 300 100 0 0 20 0 1 0"


def test_a_line_of_stat_is_read_whatever_the_name() -> None:
    assert Process.parse(77, STAT) == Process(77, 12, 400 / TICKS)


def test_this_process_is_among_those_that_run() -> None:
    known = running()
    assert known[os.getpid()].parent == os.getppid()


def test_a_job_counts_for_itself_and_other_children_for_their_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = {1: (0, 5.0), 2: (1, 1.0), 3: (2, 4.0), 4: (0, 50.0), 5: (3, 2.0)}
    commands = {2: "worker", 3: "python -m saeserve.worker.job_process {}", 5: "helper"}
    monkeypatch.setattr(
        processes, "running", lambda: {p: Process(p, up, cpu) for p, (up, cpu) in clock.items()}
    )

    def command(pid: int) -> str:
        return commands.get(pid, "")

    monkeypatch.setattr(processes, "_command", command)
    account = Account({"control": 1, "worker": 2})
    account.begin()
    clock |= {1: (0, 6.0), 2: (1, 1.5), 3: (2, 24.0), 4: (0, 90.0), 5: (3, 3.0)}
    account.look()
    del clock[3], clock[5]
    account.look()
    assert account.seconds() == {"control": 1.0, "worker": 0.5, JOB: 21.0}


def test_memory_is_read_in_bytes() -> None:
    assert field("Name:\tx\nVmHWM:\t  12 kB\n", "VmHWM") == 12 * 1024
    with pytest.raises(KeyError):
        field("Name:\tx\n", "VmHWM")
    assert peak_bytes() >= resident_bytes() > 0
    assert peak_bytes(os.getpid()) > 0


def test_the_machine_is_told_without_its_name() -> None:
    found = machine()
    assert found["cores"] == os.cpu_count()
    assert found["memory_bytes"] > 0
    assert "torch" in found["packages"]
    assert Path("/etc/hostname").read_text().strip() not in str(found)
    assert first("model name\t: a CPU\nflags\t: x y\n", "flags") == "x y"
    assert first("", "flags") == ""
