"""Job records as the fields of a Redis hash, events and machines as JSON, and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from pydantic import TypeAdapter, ValidationError

from saeserve.core.planning.machine import Machine
from saeserve.jobs.leases import HeldLease
from saeserve.jobs.queue import ClassQueue, Queued, in_turn
from saeserve.jobs.record import (
    Event,
    Failure,
    JobRecord,
    NumberedEvent,
    Output,
    Progress,
    Submission,
)
from saeserve.jobs.redis_scripts import text
from saeserve.jobs.states import TERMINAL, JobState

_OUTPUTS = TypeAdapter(tuple[Output, ...])

Fields = Mapping[str, str]


def outputs_json(outputs: tuple[Output, ...]) -> str:
    """Outputs as one JSON list."""
    return _OUTPUTS.dump_json(outputs).decode()


def failure_json(failure: Failure | None) -> str:
    """A failure as JSON; empty when there is none."""
    return failure.model_dump_json() if failure else ""


def to_fields(record: JobRecord, stream_length: int) -> dict[str, str | int]:
    """All fields that `put.lua` stores; times become milliseconds."""
    submission = record.submission
    return {
        "submission": submission.model_dump_json(),
        "spec_cut": int(record.spec_cut),
        "class": submission.resource_class,
        "submitter": submission.owner,
        "priority": submission.priority,
        "state": record.state.value,
        "reason": record.reason,
        "attempt": record.attempt,
        "epoch": record.epoch,
        "owner": record.owner_id,
        "beats": 0,
        "lease_epoch": 0,
        "progress": record.progress.model_dump_json(),
        "step": record.progress.step,
        "outputs": outputs_json(record.outputs),
        "failure": failure_json(record.failure),
        "started": round(record.started * 1000),
        "ended": round(record.ended * 1000),
        "revision": record.revision,
        "settled": int(record.state in TERMINAL),
        "stream": stream_length,
    }


def from_fields(fields: Fields) -> JobRecord:
    """The record that the fields hold."""
    failure = fields["failure"]
    return JobRecord(
        submission=Submission.model_validate_json(fields["submission"]),
        spec_cut=fields.get("spec_cut") == "1",
        state=JobState(fields["state"]),
        reason=fields["reason"],
        attempt=int(fields["attempt"]),
        epoch=int(fields["epoch"]),
        owner_id=fields["owner"],
        # Absent where an older release put the job.
        beats=int(fields.get("beats", "0")),
        progress=Progress.model_validate_json(fields["progress"]),
        outputs=_OUTPUTS.validate_json(fields["outputs"]),
        failure=Failure.model_validate_json(failure) if failure else None,
        started=int(fields["started"]) / 1000,
        ended=int(fields["ended"]) / 1000,
        revision=int(fields["revision"]),
    )


def event_json(event: Event) -> str:
    """An event as the stream holds it."""
    return event.model_dump_json()


def numbered(entry: tuple[bytes | str, dict[bytes | str, bytes | str]]) -> NumberedEvent:
    """The event of a stream's entry."""
    sequence, fields = entry
    [event] = fields.values()
    return NumberedEvent(
        sequence=int(text(sequence).partition("-")[0]), event=Event.model_validate_json(event)
    )


def machines_of(told: Sequence[str]) -> Iterator[Machine]:
    """Machines, without those of another release's form: its workers may run at the same time."""
    for each in told:
        with contextlib.suppress(ValidationError):
            yield Machine.model_validate_json(each)


def leases_of(told: Sequence[str]) -> Iterator[HeldLease]:
    """Leases as `leases.lua` lists them."""
    for job, mark, ttl_ms in zip(told[::3], told[1::3], told[2::3], strict=True):
        yield HeldLease(job=job, mark=mark, ttl_s=int(ttl_ms) / 1000 if ttl_ms else None)


def queue_of(told: Sequence[str]) -> ClassQueue:
    """A queue as `queue.lua` lists it."""
    workers, queued, *rest = told
    jobs = zip(rest[::4], rest[1::4], rest[2::4], rest[3::4], strict=True)
    order = in_turn(
        Queued(job=job, rank=int(rank), submitter=int(submitter), running=int(running))
        for job, rank, submitter, running in jobs
    )
    return ClassQueue(workers=int(workers), queued=int(queued), order=order)
