"""Reports: figures leave the device when it has reached them, and the host does not wait for that.

On an accelerator a report's sums are copied while later steps are queued, and are read when their
mark has passed, with the step at which they were taken. On the CPU that is at once. There reports
come at the cadence of the spec; on an accelerator, whose steps may take a millisecond, no more
often than REPORT_S.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from saeserve.core.architectures.contract import Tensors
from saeserve.core.data.lane import Fetched, Lane
from saeserve.core.specs.cadence import CHECKPOINT_S, REPORT_S
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.events import MetricsReported
from saeserve.core.training.feed import Stretch
from saeserve.errors import DivergedError


class Clock:
    """Says whether what is due by its steps is due by the time as well. Members of a sweep share
    one, so that all of them do it after the same step."""

    def __init__(self, lane: Lane, seconds: float) -> None:
        """At least `seconds` apart on an accelerator; always on the CPU."""
        self._seconds = seconds if lane.asynchronous else 0.0
        self._last = time.monotonic()
        self._answered = (-1, False)

    def allows(self, step: int) -> bool:
        """Whether it may be done after `step` steps; the same answer for the same step."""
        if self._answered[0] != step:
            now = time.monotonic()
            due = now - self._last >= self._seconds
            self._last = now if due else self._last
            self._answered = (step, due)
        return self._answered[1]


class Cadence:
    """When the reports and checkpoints of a run come, or those of all members of a sweep."""

    def __init__(self, lane: Lane) -> None:
        self._reports, self._checkpoints = Clock(lane, REPORT_S), Clock(lane, CHECKPOINT_S)

    def report_due(self, step: int, spec: TrainSpec) -> bool:
        """Whether a report belongs after `step` steps: at its cadence, and at the end."""
        due = step % spec.log_every_steps == 0 and self._reports.allows(step)
        return due or step == spec.steps

    def checkpoint_due(self, step: int, spec: TrainSpec) -> bool:
        """Whether a checkpoint belongs after `step` steps: at its cadence, and at the end."""
        due = step % spec.checkpoint_every_steps == 0 and self._checkpoints.allows(step)
        return due or step == spec.steps


@dataclass(frozen=True)
class Figures:
    """What a report is made of; a part of it may be on its way to the host."""

    step: int
    tokens: int
    stretch: Stretch
    known: dict[str, float]
    """Figures as they stand at the step, and sums that the host has."""
    names: tuple[str, ...]
    fetched: Fetched
    """float64, one for each name."""

    @classmethod
    def take(
        cls, at: tuple[int, int], stretch: Stretch, figures: Tensors, known: Mapping[str, float]
    ) -> Figures:
        """Start on its way what lies on the device. `at` is the step and its tokens."""
        lane = stretch.lane
        away = {name: v for name, v in figures.items() if v.device.type == lane.device.type}
        here = {name: float(v) for name, v in figures.items() if name not in away}
        fetched = lane.fetch(torch.stack([value.double() for value in away.values()]))
        return cls(*at, stretch, {**known, **here}, tuple(away), fetched)

    def report(self) -> MetricsReported:
        """The report, waiting for what it is made of; raises DivergedError where a loss is not
        finite."""
        values_N = self.fetched.value()
        arrived = {name: float(value) for name, value in zip(self.names, values_N, strict=True)}
        figures: dict[str, float] = {**self.known, **arrived}
        rows, steps = figures.pop("rows"), figures.pop("steps")
        losses = {n: figures.pop(n) / steps for n in list(figures) if n.startswith("loss")}
        if not all(math.isfinite(value) for value in losses.values()):
            raise diverged(self.step, f"the loss is {losses['loss']}")
        error, varied = figures.pop("squared_error"), figures.pop("variation")
        means = {
            "fvu": error / varied if varied else math.nan,
            "l0": figures.pop("fired") / rows,
            "grad_norm": figures.pop("grad_norm") / steps,
        }
        values = {**losses, **means, **self.stretch.values(rows), **figures}
        return MetricsReported(self.step, self.tokens, values)


class Reports:
    """The reports whose figures are on their way, oldest first."""

    def __init__(self) -> None:
        self._open: deque[Figures] = deque()

    def add(self, figures: Figures) -> None:
        """Report these once they have arrived."""
        self._open.append(figures)

    def arrived(self) -> Iterator[MetricsReported]:
        """Reports for which nobody has to wait; raises DivergedError."""
        while self._open and self._open[0].fetched.mark.passed():
            yield self._open.popleft().report()

    def rest(self) -> Iterator[MetricsReported]:
        """All of them; raises DivergedError."""
        while self._open:
            yield self._open.popleft().report()


def not_finite(step: int) -> DivergedError:
    """The error of a state that must not be committed."""
    return diverged(step, "a parameter or moment is not finite")


def diverged(step: int, message: str) -> DivergedError:
    """The error of a run that has left the finite numbers."""
    return DivergedError(
        step,
        message,
        remedy="lower optimizer.lr, lengthen warmup_steps, or look for outliers in the data",
    )
