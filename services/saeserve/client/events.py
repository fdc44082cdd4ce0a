"""What `client.jobs.watch` yields between the states of a job: its events."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from saeserve.client.wire import instant
from saeserve.v1 import job_pb2


@dataclass(frozen=True)
class StateChanged:
    """The job moved to another state."""

    type: ClassVar = "state_changed"
    state: str
    reason: str = ""


@dataclass(frozen=True)
class AttemptStarted:
    """An attempt begins; later steps of older attempts are superseded."""

    type: ClassVar = "attempt_started"
    resume_step: int = 0


@dataclass(frozen=True)
class MetricsReported:
    """Figures by name, of the job or of the event's member."""

    type: ClassVar = "metrics_reported"
    metrics: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class CheckpointCommitted:
    """A checkpoint of so many bytes is in the store."""

    type: ClassVar = "checkpoint_committed"
    bytes: int = 0


@dataclass(frozen=True)
class WarningRaised:
    """Something worth knowing that does not end the job; `code` is stable."""

    type: ClassVar = "warning_raised"
    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class LogWritten:
    """A sentence of the job for the person who watches it."""

    type: ClassVar = "log_written"
    message: str = ""


@dataclass(frozen=True)
class Gap:
    """So many events are lost to this watch; 0 when their number is not known."""

    type: ClassVar = "gap"
    events: int = 0


EventPayload = (
    StateChanged
    | AttemptStarted
    | MetricsReported
    | CheckpointCommitted
    | WarningRaised
    | LogWritten
    | Gap
)


@dataclass(frozen=True)
class JobEvent:
    """One thing that happened to a job: `match event.payload` tells what.

    `payload` is None for what only a newer release knows.
    """

    payload: EventPayload | None
    time: datetime | None
    attempt: int
    step: int
    token: str
    member: str = ""
    """Of a sweep: the name of the member's model that the event is about."""

    @property
    def type(self) -> str:
        """Name of the payload as in `JobEvent` of the API, e.g. "metrics_reported"."""
        return self.payload.type if self.payload else ""

    @property
    def data(self) -> dict[str, Any]:
        """The payload's fields by name."""
        return dataclasses.asdict(self.payload) if self.payload else {}


def event_value(event: job_pb2.JobEvent) -> JobEvent:
    """A JobEvent off the wire."""
    time = instant(event.time)
    return JobEvent(_payload(event), time, event.attempt, event.step, event.token, event.member)


def _payload(event: job_pb2.JobEvent) -> EventPayload | None:
    match event.WhichOneof("payload"):
        case "state_changed":
            state = job_pb2.JobState.Name(event.state_changed.state).removeprefix("JOB_STATE_")
            return StateChanged(state, event.state_changed.reason)
        case "attempt_started":
            return AttemptStarted(event.attempt_started.resume_step)
        case "metrics_reported":
            return MetricsReported(dict(event.metrics_reported.metrics))
        case "checkpoint_committed":
            return CheckpointCommitted(event.checkpoint_committed.bytes)
        case "warning_raised":
            return WarningRaised(event.warning_raised.code, event.warning_raised.message)
        case "log_written":
            return LogWritten(event.log_written.message)
        case "gap":
            return Gap(event.gap.events)
        case None:
            return None
