"""What is shown of a job's events, on whatever screen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from datetime import datetime

from rich.text import Text

from saeserve.cli.output import styled
from saeserve.client.events import (
    AttemptStarted,
    JobEvent,
    LogWritten,
    MetricsReported,
    StateChanged,
    WarningRaised,
)
from saeserve.client.values import Job

SHOWN = ("loss", "fvu", "l0", "dead", "tokens_per_second")
"""Figures in the order of their weight: the last ones give way on narrow screens."""
_REPORTS = 20


class Pace:
    """How fast steps go by, from the times that the latest reports bear."""

    def __init__(self) -> None:
        self._reports: deque[tuple[datetime, int]] = deque(maxlen=_REPORTS)

    def report(self, time: datetime | None, step: int) -> None:
        """Add a report; a step before the last one resets the speed."""
        if time is None:
            return
        if self._reports and step < self._reports[-1][1]:
            self._reports.clear()
        self._reports.append((time, step))

    def per_second(self) -> float | None:
        """Steps a second; None while that is not known."""
        if len(self._reports) < 2:
            return None
        (began, first), (ended, last) = self._reports[0], self._reports[-1]
        seconds, steps = (ended - began).total_seconds(), last - first
        return steps / seconds if seconds > 0 and steps > 0 else None

    def remaining_seconds(self, total: int | None) -> float | None:
        """Until step `total`; None while that is not known."""
        rate = self.per_second()
        if total is None or rate is None:
            return None
        return max(total - self._reports[-1][1], 0) / rate


class Screen(ABC):
    """Takes the job and its events, and shows what is worth it."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.pace = Pace()

    def take(self, job: Job) -> None:
        """Note of how many steps the job has, which later lines are a share of."""
        self.total = job.progress.total_steps or _steps(job)

    def show(self, event: JobEvent) -> None:
        """Print what a reader at a terminal wants to know of it; most events print nothing."""
        match event.payload:
            case MetricsReported():
                self._report(event)
            case StateChanged(state=state, reason=reason):
                self.say(f"{state}: {reason}" if reason else state)
            case AttemptStarted():
                self.say(f"attempt {event.attempt} from step {event.step:,}")
            case WarningRaised() as warning:
                self._warning(event.member, warning)
            case LogWritten(message=message):
                self.say(message)
            case _:
                pass

    @abstractmethod
    def say(self, text: str | Text) -> None:
        """Print a line."""

    @abstractmethod
    def metrics(self, event: JobEvent) -> None:
        """Show how far the job, or a member of a sweep, is."""

    @abstractmethod
    def drop(self, member: str) -> None:
        """Show a member no more: it diverged."""

    def _report(self, event: JobEvent) -> None:
        if not event.member:
            self.pace.report(event.time, event.step)
        self.metrics(event)

    def _warning(self, member: str, warning: WarningRaised) -> None:
        of = f"{member}: " if member else ""
        self.say(styled("yellow", warning.code, f" {of}{warning.message}"))
        if warning.code == "MEMBER_DIVERGED":
            self.drop(member)


def shown(event: JobEvent) -> dict[str, float]:
    """The figures of a report that are shown, in the order of their weight."""
    metrics = event.payload.metrics if isinstance(event.payload, MetricsReported) else {}
    return {name: metrics[name] for name in SHOWN if name in metrics}


def _steps(job: Job) -> int | None:
    """Steps of a train job that has not reported its own yet."""
    train = job.resolved_spec.get("train", {})
    if not train.get("batch_size") or "tokens" not in train:
        return None
    return int(train["tokens"]) // int(train["batch_size"])
