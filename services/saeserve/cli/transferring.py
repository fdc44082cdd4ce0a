"""What the commands that move files have in common: progress while they do, a line at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from saeserve.cli.output import connect, errors, told


def download(resource: str, folder: Path, as_json: bool) -> None:
    """Bring the files of a resource to `folder`, going on with an earlier try."""
    with connect() as client, shown() as progress:
        done = client.transfers.download(resource, folder, progress)
    told(f"{done.resource} is at {done.folder}: {', '.join(done.files)}", done, as_json)


@contextlib.contextmanager
def shown() -> Generator[Callable[[str, int, int], None]]:
    """A bar on the terminal; it takes the file at work, bytes done and bytes to do."""
    bars = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=not errors.is_terminal,
    )
    with bars:
        bar = bars.add_task("", total=None)

        def progress(name: str, done: int, total: int) -> None:
            bars.update(bar, description=name, completed=done, total=total)

        yield progress
