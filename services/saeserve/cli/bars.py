"""A job's progress on a terminal: a bar for the job, and one for each member of a sweep."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TaskProgressColumn, TextColumn
from rich.table import Column
from rich.text import Text
from typing_extensions import override

from saeserve.cli.figures import duration, metrics_text
from saeserve.cli.output import errors
from saeserve.cli.watched import Screen, shown
from saeserve.client.events import JobEvent
from saeserve.client.values import Job

_FIXED = 20
"""Columns of percent, time left and the gaps between."""


def bars_on(console: Console) -> Progress:
    """Bars with a name, percent, the field `left` and the field `figures`, for any width."""
    name, bar = _widths(console)
    return Progress(
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", max_width=name),
        ),
        BarColumn(bar_width=bar),
        TaskProgressColumn(table_column=Column(no_wrap=True, min_width=4)),
        TextColumn(
            "{task.fields[left]}",
            markup=False,
            table_column=Column(no_wrap=True, min_width=7, justify="right"),
        ),
        TextColumn("{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True)),
        console=console,
    )


def room_for_figures(bars: Progress) -> int:
    """Columns that names, bars, percent and time left do not take."""
    name, bar = _widths(bars.console)
    longest = max((len(task.description) for task in bars.tasks), default=0)
    return max(0, bars.console.width - min(longest, name) - bar - _FIXED)


def _widths(console: Console) -> tuple[int, int]:
    """Columns of a name at most, and of a bar."""
    return max(8, min(30, console.width // 4)), max(6, min(40, console.width // 5))


class Bars(Screen):
    """Name, bar, percent and time left are always whole; figures take the room that is left."""

    def __init__(self, console: Console = errors) -> None:
        super().__init__()
        self._bars = bars_on(console)
        self._job = self._bars.add_task("", total=None, figures="", left="")
        self._members: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    @property
    def tasks(self) -> list[Task]:
        """The bars: the job's, then those of its members."""
        return self._bars.tasks

    @override
    def take(self, job: Job) -> None:
        super().take(job)
        done = job.progress.step
        self._bars.update(self._job, description=job.kind, total=self.total, completed=done)

    @override
    def say(self, text: str | Text) -> None:
        self._bars.console.print(text, highlight=False)

    @override
    def metrics(self, event: JobEvent) -> None:
        if event.member:
            self._update(self._member(event.member), event, metrics_text(shown(event), self._room))
            self._update(self._job, event, "")
        else:
            self._update(self._job, event, metrics_text(shown(event), self._room))

    @override
    def drop(self, member: str) -> None:
        if member in self._members:
            self._bars.remove_task(self._members.pop(member))

    @property
    def _room(self) -> int:
        """Columns for figures, whatever the names are."""
        return room_for_figures(self._bars)

    def _update(self, task: TaskID, event: JobEvent, figures: str) -> None:
        left = self.pace.remaining_seconds(self.total)
        self._bars.update(
            task,
            total=self.total,
            completed=event.step,
            figures=figures,
            left="" if left is None else duration(left),
        )

    def _member(self, name: str) -> TaskID:
        if name not in self._members:
            self._members[name] = self._bars.add_task(name, total=self.total, figures="", left="")
        return self._members[name]
