"""What a worker knows of its hardware. It never imports torch: a process of its own asks that what
it sees, and ends, so that no memory of a device stays taken."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from saeserve.core.planning.machine import Machine
from saeserve.platform.memory import limit_bytes
from saeserve.platform.processors import processors

_log = logging.getLogger("saeserve.worker.machine")
PROBE = (sys.executable, "-m", "saeserve.worker.probe")
PROBE_SECONDS = 120.0
"""The first import of torch on a busy machine with a slow disk takes long."""


class Accelerator(BaseModel):
    """The device that a job of an accelerated class would compute on, as torch sees it."""

    model_config = ConfigDict(frozen=True)

    name: str
    memory_bytes: int


class Seen(BaseModel):
    """What the probe prints: torch's version, and its device if it sees one."""

    model_config = ConfigDict(frozen=True)

    torch: str
    accelerator: Accelerator | None = None


def accelerator() -> Accelerator | None:
    """The device that torch sees in a process of its own; None where it sees none, or where the
    process fails, which is logged."""
    try:
        told = subprocess.run(PROBE, check=True, capture_output=True, timeout=PROBE_SECONDS)
        return Seen.model_validate_json(told.stdout).accelerator
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        _log.warning("torch could not be asked for a GPU: %s", last)
    except (OSError, subprocess.TimeoutExpired, ValidationError) as error:
        _log.warning("torch could not be asked for a GPU: %s", error)
    return None


def machine_of(
    resource_class: str, device: Accelerator | None, torch_threads: int, root: Path = Path("/")
) -> Machine:
    """The machine that jobs of the class run on. `root` is where /proc and /sys lie."""
    if resource_class != "cpu" and device is not None:
        host, own = limit_bytes(root), device.memory_bytes
        return Machine(kind=device.name, memory_bytes=own, host_memory_bytes=host)
    threads = torch_threads or processors(root)
    kind = f"{processor_name(root)}, {threads} thread" + ("s" if threads > 1 else "")
    return Machine(kind=kind, memory_bytes=limit_bytes(root))


def processor_name(root: Path = Path("/")) -> str:
    """Name of the processor from /proc/cpuinfo."""
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    pairs = (line.partition(":") for line in lines)
    named = (value.strip() for key, _, value in pairs if key.strip() == "model name")
    return next(named, "a processor without a name")
