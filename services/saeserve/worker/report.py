"""What a runner tells while it runs: events in the attempt's file, which the worker passes on."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, TypedDict

from saeserve.errors import Unavailable
from saeserve.jobs.events import EVENTS, EventLog
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.payloads import (
    AttemptStarted,
    CheckpointCommitted,
    EventPayload,
    LogWritten,
    MetricsReported,
    WarningRaised,
)
from saeserve.jobs.record import Claim, Lease
from saeserve.platform.store import ArtifactStore

_log = logging.getLogger("saeserve.worker.job")


SIGN_S = 1.0
"""Signs of life are given at most this often."""


@dataclass(frozen=True)
class Scale:
    """What a job counts, and how far it has to go; 0 when that is not known."""

    unit: str
    total: int = 0


@dataclass(frozen=True)
class MemberOf:
    """A member of a sweep: the name of its model, and its number in the sweep, from 0."""

    name: str
    number: int


class Report:
    """Typed events of one attempt; `step` is the latest step that was reported."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._last = (time.monotonic(), 0)
        self._rate = 0.0
        self._next_sign = 0.0
        self.step = 0

    @staticmethod
    def open(store: ArtifactStore, ledger: Ledger, claim: Claim) -> Report:
        """The report of the attempt that `claim` began. Its methods raise Fenced when the store
        shows a later attempt or a result: nobody would read what is written after the end."""
        folder = store.path(ledger.attempt_key(claim.job, claim.epoch))
        lease = Lease(job=claim.job, epoch=claim.epoch, owner=claim.owner)

        def check_fence() -> None:
            # A store that is away shows no fence; the file that is open takes the event or fails.
            with contextlib.suppress(Unavailable):
                ledger.check_fence(lease)

        return Report(EventLog(folder / EVENTS, claim.epoch, check_fence=check_fence))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()

    def attempt_started(self, resume_step: int) -> None:
        """Later steps of older attempts are superseded from here on."""
        self._write(resume_step, AttemptStarted(resume_step=resume_step))
        self._last = (time.monotonic(), resume_step)

    def metrics(
        self, step: int, values: Mapping[str, float], scale: Scale, member: MemberOf | None = None
    ) -> None:
        """Figures at `step`, of a sweep's one member; what is not finite is left out."""
        report = MetricsReported(
            metrics=finite(values),
            unit=scale.unit,
            total_steps=scale.total,
            units_per_second=self._speed(step),
            **_named(member),
        )
        self._write(step, report)

    def checkpoint(self, step: int, size_bytes: int) -> None:
        """A checkpoint is committed."""
        self._write(step, CheckpointCommitted(bytes=size_bytes))

    def warning(self, step: int, code: str, message: str, member: MemberOf | None = None) -> None:
        """Something worth knowing that does not end the job."""
        _log.warning("step %d: %s: %s", step, code, message)
        self._write(step, WarningRaised(code=code, message=message, **_named(member)))

    def log(self, message: str) -> None:
        """A sentence for the person who watches."""
        _log.info("step %d: %s", self.step, message)
        self._write(self.step, LogWritten(message=message))

    def moved(self) -> None:
        """Some part of the work is done: say so, at most once a second, to the worker."""
        if time.monotonic() < self._next_sign:
            return
        self._next_sign = time.monotonic() + SIGN_S
        try:
            self._log.touch()
        except OSError as error:
            # What is written next will fail too, and say so; this alone loses nothing.
            _log.warning("no sign of life could be given: %s", error)

    def _write(self, step: int, payload: EventPayload) -> None:
        self.step = step
        self._log.append(payload, step=step)

    def _speed(self, step: int) -> float:
        """Steps per second since another step was reported; members report the same steps."""
        now, (before, last) = time.monotonic(), self._last
        if step != last:
            self._last = (now, step)
            self._rate = max(0, step - last) / max(now - before, 1e-9)
        return self._rate


class _Member(TypedDict, total=False):
    member: str
    member_number: int


def _named(member: MemberOf | None) -> _Member:
    return {} if member is None else {"member": member.name, "member_number": member.number}


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """The finite ones, as plain floats."""
    return {key: float(value) for key, value in values.items() if math.isfinite(value)}
