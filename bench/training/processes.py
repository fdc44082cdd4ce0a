"""CPU time of a stack's processes and of the job that they run, from /proc."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.training.memory import peak_bytes

JOB = "job"
JOB_MODULE = "saeserve.worker.job_process"
TICKS = os.sysconf("SC_CLK_TCK")
GONE = (FileNotFoundError, ProcessLookupError)


@dataclass(frozen=True)
class Process:
    """A line of /proc/<pid>/stat."""

    pid: int
    parent: int
    cpu_seconds: float
    """User and system."""

    @classmethod
    def parse(cls, pid: int, stat: str) -> Process:
        """The name, in parentheses, may hold spaces and parentheses itself."""
        fields = stat.rpartition(")")[2].split()
        return cls(pid, int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS)


def running() -> dict[int, Process]:
    """All processes of the machine that can be seen."""
    found: dict[int, Process] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = Process.parse(
                    int(entry.name), (entry / "stat").read_text()
                )
            except GONE:
                continue
    return found


@dataclass
class Account:
    """CPU seconds by service, and of the job, since `begin`."""

    services: Mapping[str, int]
    """Process ids by name; what they start is counted with them, but for the job."""
    job_peak_bytes: int = 0
    _names: dict[int, str] = field(default_factory=dict[int, str])
    _first: dict[int, float] = field(default_factory=dict[int, float])
    _last: dict[int, float] = field(default_factory=dict[int, float])

    def begin(self) -> None:
        """What was used before does not count."""
        self.look()
        self._first = dict(self._last)

    def look(self) -> None:
        """Read the clocks; a process that has ended keeps what was read last."""
        known = running()
        for pid, process in known.items():
            name = self._name(pid, known)  # a standby process becomes the job's
            if name:
                self._names[pid], self._last[pid] = name, process.cpu_seconds
            if name == JOB:
                self.job_peak_bytes = max(self.job_peak_bytes, _peak(pid))

    def seconds(self) -> dict[str, float]:
        """By name."""
        found: dict[str, float] = dict.fromkeys(self.services, 0.0)
        for pid, name in self._names.items():
            used = self._last[pid] - self._first.get(pid, 0.0)
            found[name] = found.get(name, 0.0) + used
        return found

    def _name(self, pid: int, known: Mapping[int, Process]) -> str:
        """Name of the process's service, `JOB` below a job process, "" for others."""
        by_pid = {service_pid: name for name, service_pid in self.services.items()}
        while pid in known:
            if pid in by_pid:
                return by_pid[pid]
            if JOB_MODULE in _command(pid):
                return JOB if self._name(known[pid].parent, known) else ""
            pid = known[pid].parent
        return ""


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except GONE:
        return ""


def _peak(pid: int) -> int:
    try:
        return peak_bytes(pid)
    except (*GONE, KeyError):
        return 0
