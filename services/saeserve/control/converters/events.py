"""Job events as messages."""

from __future__ import annotations

from saeserve.control.converters.jobs import state_message
from saeserve.control.converters.times import timestamp
from saeserve.control.converters.tokens import Cursor, resume_token
from saeserve.jobs.payloads import (
    AttemptStarted,
    CheckpointCommitted,
    LogWritten,
    MetricsReported,
    StateChanged,
    UnknownPayload,
    WarningRaised,
)
from saeserve.jobs.record import Event
from saeserve.v1 import job_pb2


def event_message(job: str, cursor: Cursor, event: Event) -> job_pb2.JobEvent | None:
    """The event with the token that continues after it; None for a type of a newer release."""
    if isinstance(event.payload, UnknownPayload):
        return None
    message = job_pb2.JobEvent(
        token=resume_token(job, cursor),
        time=timestamp(event.time),
        attempt=event.epoch,
        step=event.step,
    )
    _fill(message, event)
    return message


def gap_message(job: str, cursor: Cursor, events: int) -> job_pb2.JobEvent:
    """Tells that `events` events before those that follow are gone from the index."""
    return job_pb2.JobEvent(token=resume_token(job, cursor), gap=job_pb2.Gap(events=events))


def _fill(message: job_pb2.JobEvent, event: Event) -> None:
    """Set the payload; `CopyFrom` sets it even where all of its fields are zero."""
    match event.payload:
        case StateChanged(state=state, reason=reason):
            changed = job_pb2.StateChanged(state=state_message(state), reason=reason)
            message.state_changed.CopyFrom(changed)
        case AttemptStarted(resume_step=step):
            message.attempt_started.CopyFrom(job_pb2.AttemptStarted(resume_step=step))
        case MetricsReported(metrics=metrics, member=member):
            message.member = member
            message.metrics_reported.CopyFrom(job_pb2.MetricsReported(metrics=metrics))
        case CheckpointCommitted(bytes=size):
            message.checkpoint_committed.CopyFrom(job_pb2.CheckpointCommitted(bytes=size))
        case WarningRaised(code=code, message=text, member=member):
            message.member = member
            message.warning_raised.CopyFrom(job_pb2.WarningRaised(code=code, message=text))
        case LogWritten(message=text):
            message.log_written.CopyFrom(job_pb2.LogWritten(message=text))
        case UnknownPayload():
            pass
