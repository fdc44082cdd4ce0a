"""What the supervisor tells the job process, and what its exit codes say."""

from __future__ import annotations

import sys
from enum import IntEnum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from saeserve.jobs.record import Claim, Lease
from saeserve.platform.paths import PathCover


class ExitCode(IntEnum):
    """How a job process ends when it ends by itself; anything else is a crash."""

    FINISHED = 0
    """`result.json` is committed."""
    FAILED = 70
    """`error.json` of the attempt says why."""
    STOPPED = 75
    """Asked to stop; what can be resumed from is committed."""
    FENCED = 76
    """A newer attempt exists; nothing was committed."""
    DISK_FULL = 78
    """The disk of the store is full: not even `error.json` could be written."""
    UNFIT = 77
    """This worker has not the device that the job needs; nothing was committed."""


class JobOrder(BaseModel):
    """One attempt to run; handed over as the job process's only argument. Holds no secrets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: Claim
    store: Path
    store_id: str = ""
    """Id that the store's marker must have; "" does not ask."""
    roots: dict[str, Path]
    parent: int
    """Process id of the worker: the job process ends soon after it."""
    stop_grace_s: float
    torch_threads: int
    """0 leaves the choice to torch."""
    gpu_kernels: bool = True
    log_level: str = "INFO"
    log_format: Literal["text", "json"] = "text"
    machine: str = ""
    """Kind of the machine, under which the job's speed is recorded; empty records none."""

    @property
    def cover(self) -> PathCover:
        """Hides the folders of this machine in what is reported of the job."""
        return PathCover.of(self.store, self.roots)

    @property
    def lease(self) -> Lease:
        """The right that this attempt presents."""
        return Lease(job=self.claim.job, epoch=self.claim.epoch, owner=self.claim.owner)


def command(order: JobOrder) -> list[str]:
    """The command line that runs `order`."""
    return [sys.executable, "-m", "saeserve.worker.job_process", order.model_dump_json()]
