"""What the commands that move files have in common: progress while they do, a line at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from saeserve.cli import output
from saeserve.cli.bars import bars_on, room_for_figures
from saeserve.cli.figures import duration, size
from saeserve.cli.lines import EVERY
from saeserve.cli.watched import Pace
from saeserve.client.progress import Progress
from saeserve.client.transfers import Downloaded

_BETWEEN = timedelta(seconds=0.2)
"""Two reports that the speed is reckoned from: chunks come faster than speeds are read."""


def download(resource: str, folder: Path, as_json: bool) -> None:
    """Bring the files of a resource to `folder`, going on with an earlier try."""
    with output.connect() as client, shown() as progress:
        done = client.transfers.download(resource, folder, progress)
    say_where(done, as_json)


def say_where(done: Downloaded, as_json: bool) -> None:
    """Print what a finished download holds."""
    told = f"{done.resource} is at {done.folder}: {', '.join(done.files)}"
    output.told(told, done, as_json)


@contextlib.contextmanager
def shown(console: Console | None = None) -> Generator[Progress]:
    """What shows the bytes of files that are moved: a bar on a terminal, lines in a log."""
    console = output.errors if console is None else console
    if not console.is_terminal:
        yield _lines(console)
        return
    with bars_on(console) as bars:
        bar, pace = bars.add_task("", total=None, figures="", left=""), _BytePace()

        def progress(name: str, done: int, total: int) -> None:
            pace.report(done)
            bars.update(bar, description=name, completed=done, total=total)
            figures = pace.fitting(done, total, room_for_figures(bars))
            bars.update(bar, left=pace.left(total), figures=figures)

        yield progress


class _BytePace:
    """How fast bytes go by, as texts."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._pace = Pace()
        self._last: datetime | None = None

    def report(self, done: int) -> None:
        now = self._now()
        if self._last is None or now - self._last >= _BETWEEN:
            self._last = now
            self._pace.report(now, done)

    def left(self, total: int) -> str:
        seconds = self._pace.remaining_seconds(total)
        return "" if seconds is None else duration(seconds)

    def figures(self, done: int, total: int) -> list[str]:
        rate = self._pace.per_second()
        told = [f"{size(done)} of {size(total)}"]
        return told if rate is None else [*told, f"{size(rate)}/s"]

    def fitting(self, done: int, total: int, room: int) -> str:
        """The figures that fit into `room` columns; the last ones are left out first."""
        told = self.figures(done, total)
        while told and len(" ".join(told)) > room:
            told.pop()
        return " ".join(told)


def _lines(console: Console) -> Progress:
    """A line every `EVERY`, and one once all is there."""
    pace, began = _BytePace(), datetime.now(UTC)
    last = [began]

    def progress(name: str, done: int, total: int) -> None:
        now = datetime.now(UTC)
        pace.report(done)
        if done < total and now - last[0] < EVERY:
            return
        last[0] = now
        words = [f"{done / max(1, total):4.0%} {name}", *pace.figures(done, total)]
        left = pace.left(total)
        words += [f"{left} left"] if left and done < total else []
        console.print("  ".join(words), soft_wrap=True, highlight=False)

    return progress
