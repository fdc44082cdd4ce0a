"""The job half of the SDK: submit, look, wait, watch, cancel."""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict, ParseError

from saeserve.client.errors import InvalidArgumentError, UnavailableError, translated
from saeserve.client.plans import Plan, plan_value
from saeserve.client.spec_fields import fitted
from saeserve.client.values import Job, JobEvent, event_value, job_value
from saeserve.v1 import job_pb2, job_service_pb2, job_service_pb2_grpc, spec_pb2

RECONNECT_SECONDS = 1.0


def parse_spec(spec: Mapping[str, Any] | spec_pb2.JobSpec) -> spec_pb2.JobSpec:
    """A spec from plain data such as ``{"train": {"dataset": …}}``.

    Raises InvalidArgumentError naming what does not fit the API.
    """
    if isinstance(spec, spec_pb2.JobSpec):
        return spec
    try:
        return ParseDict(fitted(spec, spec_pb2.JobSpec.DESCRIPTOR), spec_pb2.JobSpec())
    except ParseError as error:
        raise InvalidArgumentError(
            f"the job spec does not fit the API: {error}",
            code="INVALID_ARGUMENT",
            field="spec",
        ) from error


class Jobs:
    """Calls of JobService."""

    def __init__(self, channel: grpc.Channel, address: str, timeout: float) -> None:
        self._stub = job_service_pb2_grpc.JobServiceStub(channel)
        self._address = address
        self._timeout = timeout

    def submit(
        self,
        spec: Mapping[str, Any] | spec_pb2.JobSpec,
        *,
        request_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        owner: str = "",
        priority: int = 0,
        waits_for: Sequence[str] = (),
        max_attempts: int = 0,
    ) -> Job:
        """Submit a job; once this returns, the job is safe. A request id is made when none is
        given, so that the call itself may be retried."""
        request = job_service_pb2.SubmitJobRequest(
            spec=parse_spec(spec),
            request_id=request_id or str(uuid.uuid4()),
            labels=labels or {},
            owner=owner,
            priority=priority,
            waits_for=waits_for,
            max_attempts=max_attempts,
        )
        with translated(self._address):
            return job_value(self._stub.SubmitJob(request, timeout=self._timeout).job)

    def plan(
        self, spec: Mapping[str, Any] | spec_pb2.JobSpec, *, waits_for: Sequence[str] = ()
    ) -> tuple[Job, Plan]:
        """Resolve, check and plan a spec without recording anything.

        A job that would be refused for want of memory is planned too: see `Plan.refusal`.
        """
        request = job_service_pb2.SubmitJobRequest(
            spec=parse_spec(spec), validate_only=True, waits_for=waits_for
        )
        with translated(self._address):
            response = self._stub.SubmitJob(request, timeout=self._timeout)
        return job_value(response.job), plan_value(response.plan)

    def get(self, job: str) -> Job:
        """The job as it is now."""
        request = job_service_pb2.GetJobRequest(id=job)
        with translated(self._address):
            return job_value(self._stub.GetJob(request, timeout=self._timeout).job)

    def list(
        self,
        *,
        states: Sequence[str] = (),
        kinds: Sequence[str] = (),
        owner: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> Iterator[Job]:
        """Jobs that match, newest first; pages are fetched as needed."""
        wanted = job_service_pb2.JobFilter(
            states=[_state(name) for name in states],
            kinds=kinds,
            owner=owner,
            labels=labels or {},
        )
        token = ""
        while True:
            request = job_service_pb2.ListJobsRequest(filter=wanted, page_token=token)
            with translated(self._address):
                page = self._stub.ListJobs(request, timeout=self._timeout)
            yield from (job_value(job) for job in page.jobs)
            token = page.next_page_token
            if not token:
                return

    def cancel(self, job: str, *, etag: str = "") -> Job:
        """Ask a job to stop."""
        request = job_service_pb2.CancelJobRequest(id=job, etag=etag)
        with translated(self._address):
            return job_value(self._stub.CancelJob(request, timeout=self._timeout).job)

    def delete(self, job: str) -> None:
        """Remove a job that has ended: events, logs, checkpoints. What it made stays."""
        request = job_service_pb2.DeleteJobRequest(id=job)
        with translated(self._address):
            self._stub.DeleteJob(request, timeout=self._timeout)

    def watch(self, job: str, *, resume_token: str = "") -> Generator[Job | JobEvent]:
        """The job, its events as they come, and the job again when it has ended.

        A broken stream goes on after the last event seen; an answer other than UNAVAILABLE is
        raised.
        """
        token = resume_token
        while True:
            try:
                for update in self._updates(job, token):
                    if isinstance(update, JobEvent):
                        token = update.token
                    yield update
            except UnavailableError:
                self.get(job)  # a server that is down, not just a broken stream, ends the watch
                time.sleep(RECONNECT_SECONDS)
            else:
                return

    def wait(self, job: str, *, poll_seconds: float = 0.5) -> Job:
        """Block until the job has ended, and return it; a failure is in `.error`."""
        while True:
            seen = self.get(job)
            if seen.done:
                return seen
            time.sleep(poll_seconds)

    def _updates(self, job: str, token: str) -> Iterator[Job | JobEvent]:
        request = job_service_pb2.WatchJobRequest(id=job, resume_token=token)
        with translated(self._address):
            for response in self._stub.WatchJob(request):
                if response.WhichOneof("update") == "job":
                    yield job_value(response.job)
                else:
                    yield event_value(response.event)


def _state(name: str) -> job_pb2.JobState.ValueType:
    try:
        return job_pb2.JobState.Value(f"JOB_STATE_{name.upper()}")
    except ValueError as error:
        known = ", ".join(key.removeprefix("JOB_STATE_") for key in job_pb2.JobState.keys()[1:])
        raise InvalidArgumentError(
            f"no job state is called {name!r}", field="states", remedy=f"use one of {known}"
        ) from error
