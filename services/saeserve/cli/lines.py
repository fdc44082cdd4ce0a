"""A job's progress as lines, for logs and pipes."""

from __future__ import annotations

from datetime import datetime, timedelta

from rich.text import Text
from typing_extensions import override

from saeserve.cli.figures import duration, metrics_text
from saeserve.cli.output import errors
from saeserve.cli.watched import Screen, shown
from saeserve.client.events import JobEvent

EVERY = timedelta(seconds=10)
"""Between two lines of progress, by the times that the reports bear."""


class Lines(Screen):
    """A line for each event, and one every `EVERY` for reports; the last report is always shown."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, datetime] = {}
        self._kept: dict[str, JobEvent] = {}

    @override
    def say(self, text: str | Text) -> None:
        for event in self._kept.values():
            self._print(event)
        self._kept.clear()
        errors.print(text, soft_wrap=True, highlight=False)

    @override
    def metrics(self, event: JobEvent) -> None:
        last = self._said.get(event.member)
        if event.time is not None and last is not None and event.time - last < EVERY:
            self._kept[event.member] = event
            return
        self._kept.pop(event.member, None)
        if event.time is not None:
            self._said[event.member] = event.time
        self._print(event)

    @override
    def drop(self, member: str) -> None:
        self._kept.pop(member, None)

    def _print(self, event: JobEvent) -> None:
        words = [f"{event.member}:"] if event.member else []
        if self.total:
            words.append(f"{event.step / self.total:4.0%} step {event.step:,}/{self.total:,}")
        else:
            words.append(f"step {event.step:,}")
        left = self.pace.remaining_seconds(self.total)
        if left:
            words.append(f"{duration(left)} left")
        words.append(metrics_text(shown(event)))
        errors.print("  ".join(words).rstrip(), soft_wrap=True, highlight=False)
