"""What `client.jobs.watch` yields between the states of a job: its events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, get_args

from google.protobuf.message import Message

from saeserve.client.wire import instant, plain
from saeserve.v1 import job_pb2


@dataclass(frozen=True)
class StateChanged:
    """The job moved to another state."""

    type: ClassVar[str] = "state_changed"
    state: str
    reason: str = ""


@dataclass(frozen=True)
class AttemptStarted:
    """An attempt begins; later steps of older attempts are superseded."""

    type: ClassVar[str] = "attempt_started"
    resume_step: int = 0


@dataclass(frozen=True)
class MetricsReported:
    """Figures by name, of the job or of the event's member."""

    type: ClassVar[str] = "metrics_reported"
    metrics: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class CheckpointCommitted:
    """A checkpoint of so many bytes is in the store."""

    type: ClassVar[str] = "checkpoint_committed"
    bytes: int = 0


@dataclass(frozen=True)
class WarningRaised:
    """Something worth knowing that does not end the job; `code` is stable."""

    type: ClassVar[str] = "warning_raised"
    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class LogWritten:
    """A sentence of the job for the person who watches it."""

    type: ClassVar[str] = "log_written"
    message: str = ""


@dataclass(frozen=True)
class Gap:
    """So many events are lost to this watch; 0 when their number is not known."""

    type: ClassVar[str] = "gap"
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
_PAYLOADS: dict[str, type[EventPayload]] = {made.type: made for made in get_args(EventPayload)}


@dataclass(frozen=True)
class JobEvent:
    """One thing that happened to a job: `match event.payload` says what.

    `type` names the payload as the API does, `data` holds its fields that are not empty.
    """

    type: str
    time: datetime | None
    attempt: int
    step: int
    data: Mapping[str, Any]
    token: str
    member: str = ""
    """Name of the model of the sweep's member that the event is about; empty without a sweep."""

    @property
    def payload(self) -> EventPayload | None:
        """The typed payload; None for a type that only a newer release knows."""
        made = _PAYLOADS.get(self.type)
        return made(**self.data) if made else None


def event_value(event: job_pb2.JobEvent) -> JobEvent:
    """A JobEvent off the wire."""
    kind = event.WhichOneof("payload") or ""
    payload: Message | None = getattr(event, kind) if kind else None
    data = plain(payload) if payload is not None else {}
    if isinstance(payload, job_pb2.StateChanged):
        data["state"] = job_pb2.JobState.Name(payload.state).removeprefix("JOB_STATE_")
    time = instant(event.time)
    return JobEvent(kind, time, event.attempt, event.step, data, event.token, event.member)
