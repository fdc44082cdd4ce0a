"""Job events as messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from saeserve.control.converters.jobs import state_message
from saeserve.control.converters.times import timestamp
from saeserve.control.converters.tokens import Cursor, resume_token
from saeserve.jobs.record import Event
from saeserve.jobs.states import JobState
from saeserve.v1 import job_pb2

Data = Mapping[str, Any]
# SetInParent: a payload whose fields are all zero is there nevertheless.


def event_message(job: str, cursor: Cursor, event: Event) -> job_pb2.JobEvent | None:
    """The event with the token that continues after it; None for a type of a newer release."""
    fill = _PAYLOADS.get(event.type)
    if fill is None:
        return None
    message = job_pb2.JobEvent(
        token=resume_token(job, cursor),
        time=timestamp(event.time),
        attempt=event.epoch,
        step=event.step,
        member=event.data.get("member", ""),
    )
    fill(message, event.data)
    return message


def gap_message(job: str, cursor: Cursor, events: int) -> job_pb2.JobEvent:
    """Tells that `events` events before those that follow are gone from the index."""
    return job_pb2.JobEvent(token=resume_token(job, cursor), gap=job_pb2.Gap(events=events))


def _state_changed(message: job_pb2.JobEvent, data: Data) -> None:
    message.state_changed.state = state_message(JobState(data["state"]))
    message.state_changed.reason = data.get("reason", "")


def _attempt_started(message: job_pb2.JobEvent, data: Data) -> None:
    message.attempt_started.SetInParent()
    message.attempt_started.resume_step = int(data.get("resume_step", 0))


def _metrics(message: job_pb2.JobEvent, data: Data) -> None:
    message.metrics_reported.SetInParent()
    message.metrics_reported.metrics.update(data.get("metrics", {}))


def _checkpoint(message: job_pb2.JobEvent, data: Data) -> None:
    message.checkpoint_committed.SetInParent()
    message.checkpoint_committed.bytes = int(data.get("bytes", 0))


def _warning(message: job_pb2.JobEvent, data: Data) -> None:
    message.warning_raised.SetInParent()
    message.warning_raised.code = data.get("code", "")
    message.warning_raised.message = data.get("message", "")


def _log(message: job_pb2.JobEvent, data: Data) -> None:
    message.log_written.SetInParent()
    message.log_written.message = data.get("message", "")


_PAYLOADS: dict[str, Callable[[job_pb2.JobEvent, Data], None]] = {
    "state_changed": _state_changed,
    "attempt_started": _attempt_started,
    "metrics": _metrics,
    "checkpoint": _checkpoint,
    "warning": _warning,
    "log": _log,
}
