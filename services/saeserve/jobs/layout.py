"""Where the documents of a job stand in the store; every other module asks here."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath


def request_key(owner: str, request_id: str) -> str:
    """The document that binds an owner's request id to a job."""
    digest = hashlib.sha256(f"{owner}\0{request_id}".encode()).hexdigest()
    return f"requests/{digest}.json"


def job_key(job: str, name: str) -> str:
    """`jobs/<job>/<name>`."""
    return f"jobs/{job}/{name}"


def attempt_key(job: str, epoch: int) -> str:
    """Folder of one attempt."""
    return f"jobs/{job}/attempts/{epoch}"


def checkpoint_key(job: str, epoch: int, step: int) -> str:
    """Folder of one checkpoint."""
    return f"{attempt_key(job, epoch)}/checkpoints/{step}"


def curves_key(job: str, epoch: int) -> str:
    """Folder of the curves that an attempt left when it ended: `metrics.csv`, `tensorboard/`."""
    return f"{attempt_key(job, epoch)}/metrics"


def checkpoint_epoch(key: str) -> int:
    """The epoch whose attempt holds the checkpoint folder `key`."""
    return int(PurePosixPath(key).parts[3])


def numbered(names: list[str]) -> list[int]:
    """The names that are plain numbers, ascending."""
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())
