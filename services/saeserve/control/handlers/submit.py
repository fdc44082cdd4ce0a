"""Submitting: check, plan, commit to the store, then tell the index and ring."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from saeserve.control.handlers.admission import AutoClass, admit, fleet_of, with_speeds
from saeserve.control.handlers.catalog import JobCatalog
from saeserve.control.handlers.checking import device_class, parse_spec
from saeserve.control.handlers.inputs import Inputs, Upstream
from saeserve.control.handlers.kind import JobKind, PlanContext
from saeserve.control.handlers.kinds import kind_of
from saeserve.control.handlers.order import JobOrder
from saeserve.control.handlers.ownership import OrderOwnership, seen_by
from saeserve.control.handlers.usage import WaitedFor
from saeserve.core.planning.plan import Plan
from saeserve.core.specs.jobs import JobSpec
from saeserve.errors import Conflict, FailedPrecondition
from saeserve.jobs.ids import new_job_id
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.ports import Doorbell, IndexUnavailable, JobIndex
from saeserve.jobs.record import (
    Failure,
    FieldSource,
    JobRecord,
    JobWarning,
    Result,
    Submission,
)
from saeserve.jobs.states import TERMINAL, JobState
from saeserve.registry.speeds import SpeedBook

log = logging.getLogger(__name__)
_REPEATED = "this request id was submitted before; the first answer holds the plan"


@dataclass(frozen=True)
class SubmitPolicy:
    """The server's defaults for what an order leaves open."""

    auto_class: str = "auto"
    """Resource class of jobs whose device is "auto"; "auto": gpu while a worker takes it."""
    max_attempts: int = 3


class Submitter:
    """Takes orders; an order that returns is safe in the store."""

    def __init__(
        self,
        ledger: Ledger,
        index: JobIndex,
        doorbell: Doorbell,
        inputs: Inputs,
        ownership: OrderOwnership,
        policy: SubmitPolicy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._index = index
        self._doorbell = doorbell
        self._inputs = inputs
        self._ownership = ownership
        self._policy = policy
        self._clock = clock
        self._catalog = JobCatalog(ledger, index)
        self._auto_class = AutoClass(index, policy.auto_class)
        self._speeds = SpeedBook(ledger.store)

    def submit(self, order: JobOrder) -> tuple[JobRecord, Plan]:
        """Record the job, unless only validating, and return it with its plan.

        Raises InvalidInput, NotFound, FailedPrecondition and Conflict, naming the field. A job that
        fits no worker's memory is refused, but planned all the same: the plan says so.
        """
        order.check()
        spec = parse_spec(order.spec)
        asked = kind_of(spec)
        self._ownership.check(order, asked)
        standing = self._standing(order)
        if standing is not None:
            return self._catalog.get(standing), Plan(notes=(_REPEATED,))
        upstream = self._upstream(order)
        resource_class = device_class(asked.device, self._auto_class)
        fleet = fleet_of(self._index, resource_class)
        fleet = with_speeds(fleet, asked.architecture, self._speeds)
        given = cast("Mapping[str, object]", order.spec[spec.kind])
        resolved, plan = asked.check(PlanContext(given, self._inputs, upstream, fleet))
        submission = self._submission(order, resolved, plan, resource_class)
        if order.validate_only:
            return self._record(submission.model_copy(update={"id": ""})), plan
        made = kind_of(resolved)
        admit(plan, made.name)
        self._ownership.claim(order, made)
        return self._commit(submission, made), plan

    def _standing(self, order: JobOrder) -> str | None:
        """The job that an earlier call with this request id made; checks would fail by it.

        Raises Conflict when that call had another body. A call that crashed before the job was
        recorded left an id without a job, and is repeated.
        """
        if not order.request_id or order.validate_only:
            return None
        job = self._ledger.requested(order.owner, order.request_id, order.body_sha256)
        return job if job is not None and self._ledger.exists(job) else None

    def _upstream(self, order: JobOrder) -> Upstream:
        """The jobs waited for. Raises NotFound, FailedPrecondition for one that did not succeed."""
        records: list[JobRecord] = []
        for index, job in enumerate(order.waits_for):
            field = f"waits_for[{index}]"
            record = seen_by(order.caller, self._catalog.get(job, field), field)
            if record.state in TERMINAL and record.state is not JobState.SUCCEEDED:
                raise FailedPrecondition(
                    f"job {job} is {record.state.value}, so waiting for it would never end",
                    code="WAITS_FOR_ENDED",
                    field=f"waits_for[{index}]",
                    remedy="submit that job again and wait for the new one",
                )
            records.append(record)
        return WaitedFor(records)

    def _submission(
        self, order: JobOrder, resolved: JobSpec, plan: Plan, resource_class: str
    ) -> Submission:
        now = self._clock()
        return Submission(
            id=new_job_id(now),
            kind=resolved.kind,
            spec=dict(order.spec),
            resolved_spec=resolved.to_json(),
            resource_class=resource_class,
            request_id=order.request_id,
            body_sha256=order.body_sha256,
            owner=order.owner,
            labels=dict(order.labels),
            priority=order.priority,
            waits_for=order.waits_for,
            max_attempts=order.max_attempts or self._policy.max_attempts,
            warnings=tuple(JobWarning(**each.model_dump()) for each in plan.warnings),
            field_sources=tuple(FieldSource(**asdict(each)) for each in plan.field_sources),
            created=now,
        )

    def _record(self, submission: Submission) -> JobRecord:
        waits = bool(self._ledger.unmet(submission))
        return JobRecord(
            submission=submission, state=JobState.BLOCKED if waits else JobState.QUEUED
        )

    def _commit(self, submission: Submission, made: JobKind[Any]) -> JobRecord:
        submission = self._ledger.submit(submission)
        self._reserve_dataset(submission, made.creates_dataset)
        for model in made.publishes:
            self._inputs.models.announce(model, submission.id)
        record = self._record(submission)
        self._tell(record)
        return record

    def _reserve_dataset(self, submission: Submission, dataset: str) -> None:
        """Make the data set that the job creates; a job that loses the race for its name fails."""
        if not dataset:
            return
        try:
            self._inputs.datasets.create(dataset, submission.id)
        except Conflict as error:
            failure = Failure(code=error.code, message=error.message, remedy=error.remedy)
            now = self._clock()
            self._ledger.finish(
                Result(job=submission.id, epoch=0, state=JobState.FAILED, failure=failure, time=now)
            )
            raise

    def _tell(self, record: JobRecord) -> None:
        """Index and ring. The job is safe already: what fails here, the reconciler makes good."""
        try:
            self._index.put(record)
            if record.state is JobState.QUEUED:
                self._doorbell.ring(record.submission.resource_class)
        except IndexUnavailable as error:
            log.warning("job %s waits for the reconciler: %s", record.id, error)
