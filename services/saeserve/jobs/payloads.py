"""What an event reports: one class for each type of event, distinguished by `type`.

In JSON an event's `data` has the fields that were given, in the order in which they stand here;
fields that a newer release added are kept.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from saeserve.jobs.states import JobState

MEMBER_DIVERGED = "MEMBER_DIVERGED"
"""Code of the warning that a member of a sweep is no longer trained."""


class Payload(BaseModel):
    """Base of all payloads."""

    # "strings": a loss that became NaN is still valid JSON, and is read back as a float.
    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="strings")


class StateChanged(Payload):
    """The index has moved the job to another state."""

    type: Literal["state_changed"] = "state_changed"
    state: JobState
    reason: str = ""


class AttemptStarted(Payload):
    """An attempt begins; later steps of older attempts are superseded."""

    type: Literal["attempt_started"] = "attempt_started"
    resume_step: int = 0


class MetricsReported(Payload):
    """Figures of the job, or of one member of a sweep, at the event's step."""

    type: Literal["metrics"] = "metrics"
    metrics: dict[str, float] = Field(default_factory=dict)
    unit: str = "steps"
    """What the job counts in `step`."""
    total_steps: int = 0
    """0 when that is not known."""
    units_per_second: float = 0.0
    member: str = ""
    """Name of the model of the sweep's member; empty without a sweep."""
    member_number: int = 0


class CheckpointCommitted(Payload):
    """A checkpoint is in the store."""

    type: Literal["checkpoint"] = "checkpoint"
    bytes: int = 0


class WarningRaised(Payload):
    """Something worth knowing that does not end the job; `code` is stable."""

    type: Literal["warning"] = "warning"
    code: str = ""
    message: str = ""
    member: str = ""
    """Name of the model of the sweep's member; empty without a sweep."""
    member_number: int = 0

    @property
    def ends_member(self) -> bool:
        """Whether a member of a sweep diverged and is no longer trained."""
        return self.code == MEMBER_DIVERGED


class LogWritten(Payload):
    """A sentence for the person who watches the job."""

    type: Literal["log"] = "log"
    message: str = ""


EventPayload = Annotated[
    StateChanged
    | AttemptStarted
    | MetricsReported
    | CheckpointCommitted
    | WarningRaised
    | LogWritten,
    Field(discriminator="type"),
]


class UnknownPayload(Payload):
    """A payload of a newer release: kept as it is, shown to nobody."""

    type: str
