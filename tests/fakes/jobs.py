"""Submissions, a doorbell that only counts, and a clock that stands still."""

from __future__ import annotations

from collections import Counter
from typing import Any

from saeserve.jobs.errors import IndexUnavailable
from saeserve.jobs.payloads import MetricsReported
from saeserve.jobs.ports import JobIndex
from saeserve.jobs.record import Event, JobRecord, Lease, Submission
from saeserve.jobs.states import JobState


def submission(job: str = "j-1", **changes: Any) -> Submission:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {
        "id": job,
        "kind": "train",
        "spec": {"train": {"dataset": "d"}},
        "resolved_spec": {"train": {"dataset": "d", "k": 32}},
        "resource_class": "cpu",
        "created": 1000.0,
    }
    return Submission(**(fields | changes))


def record(job: str = "j-1", state: JobState = JobState.QUEUED, **changes: Any) -> JobRecord:  # noqa: ANN401 - any field
    return JobRecord(submission=submission(job, **changes), state=state)


def event(op: int, epoch: int = 1, step: int = 0) -> Event:
    payload = MetricsReported.model_validate({"loss": [0.5, []]})
    return Event(epoch=epoch, op=op, time=1.5, step=step, payload=payload)


TTL = 30.0
"""Seconds of every lease in the tests."""


def lease_of(taken: JobRecord | None, epoch: int = 0) -> Lease:
    assert taken is not None
    return Lease(job=taken.id, epoch=epoch, owner=taken.owner_id)


def run(index: JobIndex, job: str = "j-1", owner: str = "A", epoch: int = 1) -> Lease:
    """Put a job to work: the lease of its running attempt."""
    index.put(record(job))
    lease = lease_of(index.acquire("cpu", owner, TTL), epoch)
    assert lease.job == job
    assert index.start(lease, charged=True)
    return lease


def look(index: JobIndex, job: str = "j-1") -> JobRecord:
    """The record of a job that is there."""
    found = index.get(job)
    assert found is not None
    return found


def finish(index: JobIndex, state: JobState, job: str = "j-1", epoch: int = 1) -> bool:
    return index.finish(job, epoch, state, (), None)


def states_told(index: JobIndex, job: str = "j-1") -> list[str]:
    events = index.events(job, 0, 1000)
    return [e.event.data["state"] for e in events if e.event.type == "state_changed"]


class Clock:
    """Seconds that pass only when told."""

    def __init__(self, seconds: float = 1_000_000.0) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


class CountingDoorbell:
    """Implements `ports.Doorbell`; nobody answers until `answer`."""

    def __init__(self) -> None:
        self.down = False
        self.rings: Counter[str] = Counter()

    def ring(self, resource_class: str) -> None:
        self._reach()
        self.rings[resource_class] += 1

    def waiting(self, resource_class: str) -> int:
        self._reach()
        return self.rings[resource_class]

    def answer(self) -> None:
        self.rings.clear()

    def _reach(self) -> None:
        if self.down:
            raise IndexUnavailable("the doorbell is switched off")
