"""Job records and plans as messages."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TypeVar

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from saeserve.control.converters.specs import spec_message
from saeserve.control.converters.times import timestamp
from saeserve.core.planning.plan import Plan
from saeserve.errors import InvalidInput
from saeserve.jobs.large_specs import shortened
from saeserve.jobs.queue import Waiting
from saeserve.jobs.record import Failure, JobRecord, Output, Progress
from saeserve.jobs.states import JobState
from saeserve.v1 import job_pb2

MessageT = TypeVar("MessageT", bound=Message)

ANSWERED = 2**20
LISTED = 2**14
"""Maximum characters of a spec that is shown whole: of one job, and in a listing."""

_UNTAGGED = {"progress", "revision", "beats", "spec_cut", "owner_id"}
"""Parts of a record that change without the job changing for its submitter."""


def job_message(
    record: JobRecord, waiting: Waiting | None = None, spec_characters: int = ANSWERED
) -> job_pb2.Job:
    """The job as the API tells it; specs with more than about `spec_characters` are shortened.

    `waiting`: why it does not run yet.
    """
    record = shortened(record, spec_characters)
    submission = record.submission
    return job_pb2.Job(
        id=record.id,
        state=state_message(record.state),
        spec=spec_message(submission.spec),
        resolved_spec=spec_message(submission.resolved_spec),
        owner=submission.owner,
        labels=submission.labels,
        priority=submission.priority,
        resource_class=submission.resource_class,
        waits_for=submission.waits_for,
        attempt=record.attempt,
        max_attempts=submission.max_attempts,
        progress=_progress_message(record.progress),
        outputs=[_output_message(output) for output in record.outputs if output.failure is None],
        member_errors=[
            job_pb2.MemberError(member=output.member, error=_error_message(output.failure))
            for output in record.outputs
            if output.failure is not None
        ],
        error=_error_message(record.failure) if record.state is JobState.FAILED else None,
        create_time=timestamp(submission.created),
        start_time=timestamp(record.started),
        end_time=timestamp(record.ended),
        etag=etag(record),
        warnings=[
            job_pb2.JobWarning(code=each.code, message=each.message, member=each.member)
            for each in record.warnings
        ],
        spec_cut=record.spec_cut,
        waiting=job_pb2.Waiting(**waiting.model_dump()) if waiting else None,
        field_sources=[
            job_pb2.FieldSource(**each.model_dump()) for each in submission.field_sources
        ],
    )


def listed_message(record: JobRecord, waiting: Waiting | None = None) -> job_pb2.Job:
    """The job as a listing tells it: without what GetJob is for."""
    message = job_message(record, waiting, LISTED)
    del message.field_sources[:]
    for output in message.outputs:
        # Touching the field of another kind would make an evaluation of the output.
        if output.HasField("evaluation"):
            del output.evaluation.features[:]
            del output.evaluation.results[:]
        if output.HasField("generation"):
            del output.generation.continuations[:]
        if output.HasField("annotation"):
            del output.annotation.texts[:]
    return message


def etag(record: JobRecord) -> str:
    """Changes with every change of the record, progress aside."""
    told = record.model_dump_json(exclude=_UNTAGGED)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def plan_message(plan: Plan) -> job_pb2.Plan:
    """The plan as the API tells it."""
    return ParseDict(plan.to_json(), job_pb2.Plan())


def state_message(state: JobState) -> job_pb2.JobState.ValueType:
    """The API's value of a state."""
    return job_pb2.JobState.Value(f"JOB_STATE_{state.value}")


def state_of(value: job_pb2.JobState.ValueType, field: str) -> JobState:
    """The state of an API's value. Raises InvalidInput for one that is none."""
    for state in JobState:
        if state_message(state) == value:
            return state
    raise InvalidInput(
        f"{value} is not a job state", field=field, remedy="use a JobState other than UNSPECIFIED"
    )


def _progress_message(progress: Progress) -> job_pb2.Progress:
    return job_pb2.Progress(
        step=progress.step,
        total_steps=progress.total_steps,
        unit=progress.unit,
        units_per_second=progress.units_per_second,
        metrics=progress.metrics,
        still_seconds=progress.still_seconds,
        members=[
            job_pb2.MemberProgress(member=name, metrics=metrics)
            for name, metrics in progress.members.items()
        ],
    )


def _output_message(output: Output) -> job_pb2.JobOutput:
    if output.evaluation is not None:
        report = _read(output.evaluation, job_pb2.EvaluationReport())
        return job_pb2.JobOutput(evaluation=report, metrics=output.metrics)
    if output.generation is not None:
        written = _read(output.generation, job_pb2.GenerationReport())
        return job_pb2.JobOutput(generation=written, metrics=output.metrics)
    if output.annotation is not None:
        read = _read(output.annotation, job_pb2.AnnotationReport())
        return job_pb2.JobOutput(annotation=read, metrics=output.metrics)
    if output.exported:
        return job_pb2.JobOutput(exported=output.exported, metrics=output.metrics)
    if output.dataset:
        return job_pb2.JobOutput(dataset=output.dataset, metrics=output.metrics)
    return job_pb2.JobOutput(model=output.model, metrics=output.metrics)


def _read(report: Mapping[str, object], message: MessageT) -> MessageT:
    """A stored report as a message; fields of a newer release are left out."""
    return ParseDict(dict(report), message, ignore_unknown_fields=True)


def _error_message(failure: Failure | None) -> job_pb2.JobError | None:
    if failure is None:
        return None
    return job_pb2.JobError(
        code=failure.code,
        message=failure.message,
        cause=failure.cause,
        remedy=failure.remedy,
        retryable=failure.retryable,
        step=failure.step,
    )
