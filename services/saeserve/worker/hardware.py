"""What a worker knows of its hardware without torch, and how it has it measured."""

from __future__ import annotations

import hashlib
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from saeserve.core.specs.machine import Machine
from saeserve.platform.memory import limit_bytes

_FORM = 1
"""Counted up where a measurement of the same machine would mean something else."""
_PACKAGES = ("saeserve", "torch", "numba")


class CalibrationOrder(BaseModel):
    """What to measure, and where to leave it; the calibration process's only argument."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resource_class: str
    fingerprint: str
    name: str
    """Of the processor."""
    torch_threads: int
    path: Path
    parent: int


def command(order: CalibrationOrder) -> list[str]:
    """The command line that runs `order`."""
    return [sys.executable, "-m", "saeserve.worker.calibration", order.model_dump_json()]


def fingerprint(resource_class: str, torch_threads: int, root: Path = Path("/")) -> str:
    """Changes where a measurement would: processors, accelerators, threads and versions.

    `root` is where /proc lies.
    """
    processor = sorted(_lines(root, "model name") | _lines(root, "flags"))
    accelerators = sorted(
        path.read_text() for path in root.glob("proc/driver/nvidia/gpus/*/information")
    )
    versions = [_version(name) for name in _PACKAGES]
    known = (_FORM, resource_class, torch_threads, _processors(), processor, accelerators, versions)
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]


def processor_name(root: Path = Path("/")) -> str:
    """As the kernel calls it."""
    return next(iter(sorted(_lines(root, "model name"))), "a processor without a name")


def unmeasured(resource_class: str, mark: str) -> Machine | None:
    """What is known before any measurement: the host's memory; of an accelerator nothing."""
    if resource_class != "cpu":
        return None
    return Machine(fingerprint=mark, name=processor_name(), memory_bytes=limit_bytes())


def _processors() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _lines(root: Path, name: str) -> set[str]:
    """Values of a line of /proc/cpuinfo over all processors."""
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    pairs = (line.partition(":") for line in lines)
    return {value.strip() for key, _, value in pairs if key.strip() == name}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
