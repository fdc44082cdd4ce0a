"""What the SDK hands out for jobs, data sets and models: frozen values, plain Python types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from saeserve.client.evaluations import (
    EvaluationMetric,
    evaluation_metrics,
    evaluation_value,
)
from saeserve.client.field_sources import FieldSource, field_sources
from saeserve.client.waiting import Waiting, waiting_value
from saeserve.client.wire import instant, plain
from saeserve.v1 import job_pb2

TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    step: int
    total_steps: int
    unit: str
    units_per_second: float
    metrics: Mapping[str, float]
    members: Mapping[str, Mapping[str, float]] = field(default_factory=dict[str, Any])
    """Latest metrics of each member of a sweep, by the name of its model."""
    still_seconds: float = 0.0
    """Once nothing has moved for too long: for how long."""

    @property
    def remaining_seconds(self) -> float | None:
        """Time to the end at the present rate, or None while that is unknown."""
        if self.units_per_second <= 0 or self.total_steps <= 0:
            return None
        return max(self.total_steps - self.step, 0) / self.units_per_second


@dataclass(frozen=True)
class RunWarning:
    """Something that a reader of a job or its results must know; `code` is stable."""

    code: str
    message: str
    member: str = ""
    """Name of the model of the sweep's member that it is about; empty without a sweep."""


@dataclass(frozen=True)
class JobFailure:
    """Why a job failed."""

    code: str
    message: str
    cause: str
    remedy: str
    retryable: bool
    step: int


@dataclass(frozen=True)
class JobOutput:
    """One thing a job made: a model's resource, a data set's name, an evaluation, a folder of the
    store in another library's format, texts that were generated, or the features of texts."""

    model: str
    dataset: str
    evaluation: Mapping[str, Any] | None
    exported: str
    metrics: Mapping[str, float]
    results: tuple[EvaluationMetric, ...] = ()
    """Figures of an evaluation with intervals; empty in listings and from older releases."""
    generation: Mapping[str, Any] | None = None
    """GenerationReport (protos/saeserve/v1/job.proto) as plain data."""
    annotation: Mapping[str, Any] | None = None
    """AnnotationReport as plain data."""


@dataclass(frozen=True)
class Job:
    """A job as the server saw it when it answered."""

    id: str
    kind: str
    state: str
    attempt: int
    max_attempts: int
    owner: str
    labels: Mapping[str, str]
    priority: int
    resource_class: str
    waits_for: tuple[str, ...]
    progress: Progress
    outputs: tuple[JobOutput, ...]
    member_errors: Mapping[str, JobFailure]
    """Members of a sweep that diverged, by the name that their model would have."""
    error: JobFailure | None
    resolved_spec: Mapping[str, Any]
    created: datetime | None
    started: datetime | None
    ended: datetime | None
    etag: str
    warnings: tuple[RunWarning, ...] = ()
    """What the submitter was warned of, and what was found when the job ended."""
    waiting: Waiting | None = None
    """Why it does not run yet, while it is QUEUED or BLOCKED."""
    field_sources: tuple[FieldSource, ...] = ()
    """Where values come from of fields not given, or changed; empty in listings."""
    spec: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The spec as submitted; `resolved_spec` has every other field too."""

    @property
    def done(self) -> bool:
        """Whether the job has ended, one way or another."""
        return self.state in TERMINAL


def job_value(job: job_pb2.Job) -> Job:
    """A Job off the wire."""
    return Job(
        id=job.id,
        kind=job.spec.WhichOneof("kind") or "",
        state=job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_"),
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        owner=job.owner,
        labels=dict(job.labels),
        priority=job.priority,
        resource_class=job.resource_class,
        waits_for=tuple(job.waits_for),
        progress=_progress(job.progress),
        outputs=tuple(_output(output) for output in job.outputs),
        member_errors={each.member: _failure(each.error) for each in job.member_errors},
        error=_failure(job.error) if job.HasField("error") else None,
        resolved_spec=plain(job.resolved_spec),
        created=instant(job.create_time),
        started=instant(job.start_time),
        ended=instant(job.end_time),
        etag=job.etag,
        warnings=warning_values(job.warnings),
        waiting=waiting_value(job.waiting) if job.HasField("waiting") else None,
        field_sources=field_sources(job.field_sources),
        spec=plain(job.spec),
    )


def warning_values(warnings: Iterable[job_pb2.JobWarning]) -> tuple[RunWarning, ...]:
    """A job's or a plan's warnings off the wire."""
    return tuple(RunWarning(each.code, each.message, each.member) for each in warnings)


def _progress(progress: job_pb2.Progress) -> Progress:
    return Progress(
        progress.step,
        progress.total_steps,
        progress.unit,
        progress.units_per_second,
        dict(progress.metrics),
        {each.member: dict(each.metrics) for each in progress.members},
        progress.still_seconds,
    )


def _failure(error: job_pb2.JobError) -> JobFailure:
    return JobFailure(
        error.code, error.message, error.cause, error.remedy, error.retryable, error.step
    )


def _output(output: job_pb2.JobOutput) -> JobOutput:
    kind = output.WhichOneof("kind")
    evaluation = output.evaluation if kind == "evaluation" else None
    return JobOutput(
        output.model,
        output.dataset,
        None if evaluation is None else evaluation_value(evaluation),
        output.exported,
        dict(output.metrics),
        () if evaluation is None else evaluation_metrics(evaluation),
        plain(output.generation) if kind == "generation" else None,
        plain(output.annotation) if kind == "annotation" else None,
    )
