"""Memory of this process, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path


def peak_bytes(pid: int | str = "self") -> int:
    """Most that was ever resident (VmHWM)."""
    return field(Path(f"/proc/{pid}/status").read_text(), "VmHWM")


def resident_bytes(pid: int | str = "self") -> int:
    """Resident now (VmRSS)."""
    return field(Path(f"/proc/{pid}/status").read_text(), "VmRSS")


def field(status: str, name: str) -> int:
    """A field of /proc/<pid>/status in bytes; raises KeyError where there is none."""
    for line in status.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise KeyError(name)
