"""A job record as the fields of a Redis hash, and back."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import TypeAdapter

from saeserve.jobs.record import Failure, JobRecord, Output, Progress, Submission
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
        "class": submission.resource_class,
        "submitter": submission.owner,
        "priority": submission.priority,
        "state": record.state.value,
        "reason": record.reason,
        "attempt": record.attempt,
        "epoch": record.epoch,
        "owner": record.owner_id,
        "lease": 0,
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
        state=JobState(fields["state"]),
        reason=fields["reason"],
        attempt=int(fields["attempt"]),
        epoch=int(fields["epoch"]),
        owner_id=fields["owner"],
        lease_expires=int(fields["lease"]) / 1000,
        progress=Progress.model_validate_json(fields["progress"]),
        outputs=_OUTPUTS.validate_json(fields["outputs"]),
        failure=Failure.model_validate_json(failure) if failure else None,
        started=int(fields["started"]) / 1000,
        ended=int(fields["ended"]) / 1000,
        revision=int(fields["revision"]),
    )
