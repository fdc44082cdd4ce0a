"""Where a runner puts a model together before it is published."""

from __future__ import annotations

from pathlib import Path

from saeserve.worker.runners.base import RunContext


def scratch_folder(context: RunContext) -> Path:
    """The attempt's empty export folder."""
    key = f"{context.attempt_key}/export"
    context.store.remove(key)
    folder = context.store.path(key)
    folder.mkdir(parents=True)
    return folder
