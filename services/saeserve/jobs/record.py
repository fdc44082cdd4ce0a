"""Values that pass between the ledger, the index, control and worker."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from saeserve.jobs.payloads import EventPayload, UnknownPayload
from saeserve.jobs.states import LEASED, JobState

JOB_FORMAT = 1
STALLING = "STALLING"
"""Code of the warning that nothing moves in a job any more."""


class Value(BaseModel):
    """Base of the frozen values of this room."""

    # "strings": a loss that went NaN is still valid JSON, and reads back as a float.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class JobWarning(Value):
    """Something that a reader of a job or its results must know; `code` is stable."""

    code: str
    message: str
    member: str = ""
    """Name of the model of the sweep's member that it is about; empty when about the job."""


class FieldSource(Value):
    """Where the value of a field of the resolved spec comes from that was not given, or changed.

    Values are JSON texts; `core/specs/field_sources.py` says what the rest means.
    """

    field: str
    value: str = ""
    origin: str
    replaced: str = ""
    reason: str = ""
    member: str = ""


class Submission(Value):
    """What `jobs/<id>/job.json` holds: written once, before submit answers OK."""

    format_version: int = JOB_FORMAT
    id: str
    kind: str
    spec: dict[str, Any]
    resolved_spec: dict[str, Any]
    resource_class: str
    request_id: str = ""
    body_sha256: str = ""
    owner: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    priority: int = 0
    waits_for: tuple[str, ...] = ()
    max_attempts: int = 3
    warnings: tuple[JobWarning, ...] = ()
    """What the submitter was warned of."""
    field_sources: tuple[FieldSource, ...] = ()
    """Where the values of fields come from; empty for jobs of releases that did not record it."""
    created: float
    """Seconds since the epoch."""

    @property
    def unresolved(self) -> bool:
        """Whether fields depend on a data set that was not READY yet, or on a language model that
        control could not read: the worker resolves them."""
        return any(not each.value for each in self.field_sources)

    def resolved(self, found: Resolution) -> Submission:
        """With what a worker has resolved."""
        return self.model_copy(
            update={"resolved_spec": found.resolved_spec, "field_sources": found.field_sources}
        )


class Resolution(Value):
    """What `jobs/<id>/resolved.json` holds: the spec that a worker resolved of a job that
    control could not resolve when it was submitted."""

    format_version: int = JOB_FORMAT
    resolved_spec: dict[str, Any]
    field_sources: tuple[FieldSource, ...]


class Claim(Value):
    """What `attempts/<epoch>/claim.json` holds: who runs this attempt, and from where."""

    format_version: int = JOB_FORMAT
    job: str
    epoch: int
    owner: str
    resume: str = ""
    """Store key of the checkpoint folder to resume from; empty starts afresh."""
    resume_step: int = 0
    charged: bool = True
    """False when the attempt before it ended by a drain, which costs no attempt."""
    corrupt: tuple[str, ...] = ()
    """Newer checkpoints passed over because their bytes are not what their manifest says."""
    time: float


class Failure(Value):
    """Why a job failed, for the person who submitted it."""

    code: str
    message: str
    cause: str = ""
    remedy: str = ""
    retryable: bool = False
    step: int = 0


class Output(Value):
    """One thing a job made, or could not make: exactly one of the first seven is set."""

    model: str = ""
    dataset: str = ""
    evaluation: dict[str, Any] | None = None
    exported: str = ""
    """Store key of a folder in another library's format."""
    generation: dict[str, Any] | None = None
    annotation: dict[str, Any] | None = None
    failure: Failure | None = None
    """Why a member of a sweep has no model."""
    member: str = ""
    """With a failure: name of the model that was not made."""
    metrics: dict[str, float] = Field(default_factory=dict)
    warnings: tuple[JobWarning, ...] = ()
    """What was found before and after the run."""


class Result(Value):
    """What `jobs/<id>/result.json` holds: the first writer wins, and the job is terminal."""

    format_version: int = JOB_FORMAT
    job: str
    epoch: int
    state: JobState
    outputs: tuple[Output, ...] = ()
    failure: Failure | None = None
    steps: int = 0
    time: float


class Progress(Value):
    """How far a running job is; kept in the index only."""

    step: int = 0
    total_steps: int = 0
    unit: str = "steps"
    units_per_second: float = 0.0
    metrics: dict[str, float] = Field(default_factory=dict)
    members: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Latest metrics of each member of a sweep, by name; `metrics` then has sums only."""
    still_seconds: float = 0.0
    """Once nothing has moved for too long: for how long."""


class JobRecord(Value):
    """A job as the index knows it: the submission and what has happened since."""

    submission: Submission
    spec_cut: bool = False
    """Whether the submission's specs are too large, and only the first entries of lists stand."""
    state: JobState
    reason: str = ""
    attempt: int = 0
    """Attempts charged so far."""
    epoch: int = 0
    """Highest claim known."""
    owner_id: str = ""
    """Random id of the lease holder."""
    beats: int = 0
    """How often its leases were renewed since the index has known it."""
    progress: Progress = Progress()
    outputs: tuple[Output, ...] = ()
    failure: Failure | None = None
    started: float = 0.0
    ended: float = 0.0
    revision: int = 0

    @property
    def id(self) -> str:
        """The submission's, which never changes."""
        return self.submission.id

    @property
    def warnings(self) -> tuple[JobWarning, ...]:
        """Warnings of the submission and the outputs, each once, and whether it is stalled now."""
        first: dict[tuple[str, str], JobWarning] = {}
        if self.state in LEASED and self.progress.still_seconds:
            message = f"nothing has moved for {self.progress.still_seconds:.0f} s"
            first[STALLING, ""] = JobWarning(code=STALLING, message=message)
        for source in (self.submission, *self.outputs):
            for warning in source.warnings:
                first.setdefault((warning.code, warning.member), warning)
        return tuple(first.values())


class JobFilter(Value):
    """Typed filter of a listing: all set conditions hold, empty ones match everything."""

    states: frozenset[JobState] = frozenset()
    kinds: frozenset[str] = frozenset()
    owner: str = ""
    labels: dict[str, str] = Field(default_factory=dict)

    def matches(self, record: JobRecord) -> bool:
        """Whether `record` is wanted."""
        submission = record.submission
        return (
            (not self.states or record.state in self.states)
            and (not self.kinds or submission.kind in self.kinds)
            and (not self.owner or submission.owner == self.owner)
            and self.labels.items() <= submission.labels.items()
        )


class Lease(Value):
    """The right to run an attempt: every fenced call presents it."""

    job: str
    epoch: int
    owner: str


class Beat(StrEnum):
    """What the index answers a heartbeat."""

    OK = "OK"
    CANCEL = "CANCEL"
    FENCED = "FENCED"
    UNKNOWN = "UNKNOWN"
    """The index has lost this job; the store decides."""


class Event(Value):
    """One event: a line in an attempt's folder, and an entry of the index's stream.

    `op` numbers what the job process writes (`events.jsonl`) from 0 upwards, and what its worker
    writes into a file of its own (`worker.jsonl`) from -2 downwards, both without a hole;
    (epoch, op) makes appending idempotent.
    Events that the index itself adds when it moves a job (`state_changed`) carry op -1.
    """

    epoch: int
    op: int
    time: float
    step: int = 0
    payload: Annotated[EventPayload | UnknownPayload, Field(union_mode="left_to_right")]
    """In JSON: `type`, and its other fields in `data`."""

    @model_validator(mode="before")
    @classmethod
    def _of_json(cls, values: object) -> object:
        if not isinstance(values, dict) or "type" not in values:
            return cast("object", values)
        fields = cast("dict[str, Any]", values)
        data, type = fields.get("data", {}), fields["type"]
        if not isinstance(data, dict):
            return fields
        others = {name: fields[name] for name in fields if name not in ("type", "data")}
        return others | {"payload": {**cast("dict[str, Any]", data), "type": type}}

    @model_serializer
    def _to_json(self) -> dict[str, Any]:
        fields = {"epoch": self.epoch, "op": self.op, "time": self.time, "step": self.step}
        return fields | {"type": self.type, "data": self.data}

    @property
    def type(self) -> str:
        """state_changed, attempt_started, metrics, checkpoint, warning or log."""
        return self.payload.type

    @property
    def data(self) -> dict[str, Any]:
        """The payload's fields that were given."""
        return self.payload.model_dump(exclude={"type"}, exclude_unset=True)

    @property
    def by_worker(self) -> bool:
        """Whether the worker wrote it, not the job process."""
        return self.op < -1


class NumberedEvent(Value):
    """An event with its place in the job's stream."""

    sequence: int
    event: Event
