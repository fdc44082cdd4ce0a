"""saeserve.v1.JobService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from typing_extensions import override

from saeserve.control.converters.jobs import job_message, listed_message, plan_message, state_of
from saeserve.control.converters.specs import to_plain
from saeserve.control.converters.tokens import page_after, page_size, page_token
from saeserve.control.handlers.bounds import MAX_CONDITIONS, check_count
from saeserve.control.handlers.catalog import JobCatalog
from saeserve.control.handlers.deleting import Deleter
from saeserve.control.handlers.jobs import Canceller
from saeserve.control.handlers.order import JobOrder
from saeserve.control.handlers.ownership import owned_filter, owned_order, seen_by
from saeserve.control.handlers.submit import Submitter
from saeserve.control.handlers.waiting import WaitingRoom
from saeserve.control.handlers.watch import Watcher
from saeserve.control.servicers.context import Context
from saeserve.control.servicers.pools import Pools
from saeserve.control.servicers.watching import Watching
from saeserve.core.specs.jobs import JOB_KINDS
from saeserve.errors import InvalidInput
from saeserve.jobs.record import JobFilter, JobRecord
from saeserve.platform.auth.caller import Caller, current_caller
from saeserve.platform.auth.rules import CHANGE, READ
from saeserve.platform.grpc_server import Service
from saeserve.platform.pages import fitting
from saeserve.v1 import job_service_pb2 as pb
from saeserve.v1 import job_service_pb2_grpc as pb_grpc

NAME = "saeserve.v1.JobService"
RULES = {
    "SubmitJob": CHANGE,
    "GetJob": READ,
    "ListJobs": READ,
    "CancelJob": CHANGE,
    "DeleteJob": CHANGE,
    "WatchJob": READ,
}


@dataclass(frozen=True)
class JobHandlers:
    """What the calls of JobService do."""

    catalog: JobCatalog
    submitter: Submitter
    canceller: Canceller
    watcher: Watcher
    deleter: Deleter
    waiting: WaitingRoom


class JobServicer(pb_grpc.JobServiceServicer):
    """Converts, calls a handler in a thread, converts back."""

    def __init__(
        self, handlers: JobHandlers, pools: Pools, stopping: asyncio.Event, watch_seconds: float
    ) -> None:
        """`stopping` ends watches, which would hold up a stop; they look each `watch_seconds`."""
        self._handlers = handlers
        self._pools = pools
        self._watching = Watching(
            handlers.watcher, handlers.waiting, pools, stopping, watch_seconds
        )

    @override
    async def SubmitJob(
        self, request: pb.SubmitJobRequest, context: Context
    ) -> pb.SubmitJobResponse:
        """Record a job and queue it."""
        return await self._pools.call(self._submit, request, current_caller())

    @override
    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        """State, progress and spec; NOT_FOUND for a job of which the caller may not know."""
        return await self._pools.call(self._get, request, current_caller())

    @override
    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        """Jobs that match, newest first."""
        return await self._pools.call(self._list, request, current_caller())

    @override
    async def CancelJob(
        self, request: pb.CancelJobRequest, context: Context
    ) -> pb.CancelJobResponse:
        """Ask a job to stop."""
        record = await self._pools.call(self._cancel, request, current_caller())
        return pb.CancelJobResponse(job=job_message(record))

    @override
    async def DeleteJob(
        self, request: pb.DeleteJobRequest, context: Context
    ) -> pb.DeleteJobResponse:
        """Delete a job that has ended."""
        await self._pools.call(self._delete, request, current_caller())
        return pb.DeleteJobResponse()

    @override
    async def WatchJob(
        self, request: pb.WatchJobRequest, context: Context
    ) -> AsyncIterator[pb.WatchJobResponse]:
        """The job, its events, and the job again once it has ended."""
        async for update in self._watching.updates(request):
            yield update

    def _submit(self, request: pb.SubmitJobRequest, caller: Caller) -> pb.SubmitJobResponse:
        order = owned_order(order_of(request), caller)
        record, plan = self._handlers.submitter.submit(order)
        # A job that is only planned waits for nothing.
        waiting = self._handlers.waiting.of(record) if record.id else None
        return pb.SubmitJobResponse(job=job_message(record, waiting), plan=plan_message(plan))

    def _get(self, request: pb.GetJobRequest, caller: Caller) -> pb.GetJobResponse:
        record = seen_by(caller, self._handlers.catalog.get(request.id))
        return pb.GetJobResponse(job=job_message(record, self._handlers.waiting.of(record)))

    def _cancel(self, request: pb.CancelJobRequest, caller: Caller) -> JobRecord:
        seen_by(caller, self._handlers.catalog.get(request.id))
        return self._handlers.canceller.cancel(request.id, request.etag)

    def _delete(self, request: pb.DeleteJobRequest, caller: Caller) -> None:
        seen_by(caller, self._handlers.catalog.get(request.id))
        self._handlers.deleter.delete(request.id)

    def _list(self, request: pb.ListJobsRequest, caller: Caller) -> pb.ListJobsResponse:
        wanted = owned_filter(_filter_of(request.filter), caller)
        scope = f"jobs:{request.filter.SerializeToString(deterministic=True).hex()}"
        after = page_after(request.page_token, scope)
        records, last = self._handlers.catalog.page(wanted, page_size(request.page_size), after)
        waiting = self._handlers.waiting.each(records)
        jobs = fitting(listed_message(record, waiting.get(record.id)) for record in records)
        last = last if len(jobs) == len(records) else jobs[-1].id
        return pb.ListJobsResponse(jobs=jobs, next_page_token=page_token(scope, last))


def order_of(request: pb.SubmitJobRequest) -> JobOrder:
    """What is submitted, in plain data."""
    return JobOrder(
        spec=to_plain(request.spec),
        request_id=request.request_id,
        validate_only=request.validate_only,
        labels=dict(request.labels),
        owner=request.owner,
        priority=request.priority,
        waits_for=tuple(request.waits_for),
        max_attempts=request.max_attempts,
    )


def job_service(servicer: JobServicer) -> Service:
    """The service, to be added to a server."""
    return Service(
        NAME,
        lambda server: pb_grpc.add_JobServiceServicer_to_server(servicer, server),
        rules=RULES,
    )


def _filter_of(message: pb.JobFilter) -> JobFilter:
    for name in ("states", "kinds", "labels"):
        check_count(getattr(message, name), f"filter.{name}", MAX_CONDITIONS)
    for index, kind in enumerate(message.kinds):
        if kind not in JOB_KINDS:
            raise InvalidInput(
                f"{kind!r} is not a kind of job",
                field=f"filter.kinds[{index}]",
                remedy=f"use {', '.join(JOB_KINDS)}",
            )
    states = [state_of(value, f"filter.states[{i}]") for i, value in enumerate(message.states)]
    return JobFilter(
        states=frozenset(states),
        kinds=frozenset(message.kinds),
        owner=message.owner,
        labels=dict(message.labels),
    )
