"""Where a runner puts a model together before it is published."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from saeserve.core.durable import make_folders
from saeserve.worker.runners.base import RunContext


@contextmanager
def scratch_folder(context: RunContext) -> Generator[Path]:
    """The attempt's empty export folder, which goes when the block ends: what is published is a
    copy, and what is not is made again."""
    key = f"{context.attempt_key}/export"
    context.store.remove(key)
    folder = context.store.path(key)
    make_folders(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
