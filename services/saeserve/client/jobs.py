"""The job half of the SDK: submit, look, wait, watch, cancel."""

from __future__ import annotations

import builtins
import os
import time
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict, ParseError

from saeserve.client.curves import CurvePoint, read_curves
from saeserve.client.errors import (
    UnauthenticatedError,
    UnavailableError,
    translated,
)
from saeserve.client.events import JobEvent, event_value
from saeserve.client.job_filters import job_filter
from saeserve.client.job_wait import Waiter
from saeserve.client.plans import Plan, plan_value
from saeserve.client.refusals import bad_spec
from saeserve.client.retries import Limit
from saeserve.client.spec_fields import fitted
from saeserve.client.spec_files import SpecInput, spec_data
from saeserve.client.transfers import Transfers
from saeserve.client.values import Job, job_value
from saeserve.v1 import job_service_pb2, job_service_pb2_grpc, spec_pb2

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
        raise bad_spec(f"the job spec does not fit the API: {error}", field="spec") from error


class Jobs:
    """Calls of JobService."""

    def __init__(self, channel: grpc.Channel, address: str, timeout: float) -> None:
        self._stub = job_service_pb2_grpc.JobServiceStub(channel)
        self._address = address
        self._timeout = timeout
        self._transfers = Transfers(channel, address, timeout)

    def submit(
        self,
        spec: SpecInput | str | os.PathLike[str],
        *,
        request_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        owner: str = "",
        priority: int = 0,
        waits_for: Sequence[str] = (),
        max_attempts: int = 0,
    ) -> Job:
        """Submit a job, given as plain data or as the path of a job file (YAML or JSON); once this
        returns, the job is safe. A request id is made when none is given, so that the call itself
        may be retried.

        >>> train = {"dataset": "my-acts", "model": "my-sae", "topk": {"k": 32}}
        >>> train |= {"d_sae": 4096, "tokens": 10_000_000}
        >>> job = client.jobs.submit({"train": train})
        >>> job = client.jobs.submit("job.yaml", labels={"project": "demo"}, priority=5)
        """
        request = job_service_pb2.SubmitJobRequest(
            spec=parse_spec(spec_data(spec)),
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
        self, spec: SpecInput | str | os.PathLike[str], *, waits_for: Sequence[str] = ()
    ) -> tuple[Job, Plan]:
        """Resolve, check and plan a spec without recording anything.

        A job that would be refused for want of memory is planned too: see `Plan.refusal`.

        >>> job, plan = client.jobs.plan("job.yaml")
        """
        request = job_service_pb2.SubmitJobRequest(
            spec=parse_spec(spec_data(spec)), validate_only=True, waits_for=waits_for
        )
        with translated(self._address):
            response = self._stub.SubmitJob(request, timeout=self._timeout)
        return job_value(response.job), plan_value(response.plan)

    def get(self, job: str) -> Job:
        """The job as it is now.

        >>> client.jobs.get(job.id).state
        """
        return self._get(job, self._timeout)

    def _get(self, job: str, seconds: float) -> Job:
        request = job_service_pb2.GetJobRequest(id=job)
        with translated(self._address):
            return job_value(self._stub.GetJob(request, timeout=seconds).job)

    def list(
        self,
        *,
        states: Sequence[str] = (),
        kinds: Sequence[str] = (),
        owner: str = "",
        labels: Mapping[str, str] | None = None,
    ) -> Iterator[Job]:
        """Jobs that match, newest first; pages are fetched as needed.

        >>> failed = list(client.jobs.list(states=["FAILED"], kinds=["train"]))
        """
        wanted = job_filter(states, kinds, owner, labels or {})
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
        """Ask a job to stop.

        >>> client.jobs.cancel(job.id)
        """
        request = job_service_pb2.CancelJobRequest(id=job, etag=etag)
        with translated(self._address):
            return job_value(self._stub.CancelJob(request, timeout=self._timeout).job)

    def delete(self, job: str) -> None:
        """Remove a job that has ended: events, logs, checkpoints. What it made stays.

        >>> client.jobs.delete(job.id)
        """
        request = job_service_pb2.DeleteJobRequest(id=job)
        with translated(self._address):
            self._stub.DeleteJob(request, timeout=self._timeout)

    def watch(
        self, job: str, *, resume_token: str = "", timeout: float | None = None
    ) -> Generator[Job | JobEvent]:
        """The job, its events as they come, and the job again when it has ended.

        A broken stream goes on after the last event seen, and so does one whose token was revoked
        when the token file holds a new one. Other answers are raised. Raises DeadlineError after
        `timeout` seconds; without, it watches to the end.

        >>> for update in client.jobs.watch(job.id):
        ...     print(update)
        """
        token, limit = resume_token, Limit(timeout)
        while True:
            try:
                for update in self._updates(job, token, limit.stream()):
                    if isinstance(update, JobEvent):
                        token = update.token
                    yield update
            except (UnavailableError, UnauthenticatedError):
                # A server that is down, not just a broken stream, ends the watch; and so does a
                # token that was revoked, unless its file holds a new one.
                self._get(job, min(limit.left(), self._timeout))
                time.sleep(RECONNECT_SECONDS)
            else:
                return

    def events(self, job: str) -> list[JobEvent]:
        """The events that there are now, oldest first; what comes later is left to `watch`.

        >>> client.jobs.events(job.id)[-1].type
        """
        request = job_service_pb2.WatchJobRequest(id=job, until_now=True)
        found = self._stream(request, self._timeout)
        return [update for update in found if isinstance(update, JobEvent)]

    def wait(self, job: str, *, poll_seconds: float = 0.5, timeout: float | None = None) -> Job:
        """Block until the job has ended, and return it; a failure is in `.error`.

        Raises DeadlineError after `timeout` seconds, whereupon the job goes on; without, it waits
        to the end. A server that is away for some seconds is asked again.

        >>> job = client.jobs.wait(job.id, timeout=3600)
        """
        return Waiter(self._get, self._timeout).wait(job, poll_seconds, timeout)

    def metrics(self, job: str, *, timeout: float | None = None) -> builtins.list[CurvePoint]:
        """The curves of a training job: each report once, by model and step, whatever attempts
        were killed and resumed.

        They are there once an attempt has ended. Raises NotFoundError before, and for a job of
        another kind. As files, with those of TensorBoard: transfers.download(f"jobs/{id}/metrics").

        >>> fvu = [point.values["fvu"] for point in client.jobs.metrics(job.id)]
        """
        listing = self._transfers.files(f"jobs/{job}/metrics")
        [file] = [each for each in listing.files if each.name == "metrics.csv"]
        pieces = self._transfers.read(listing.resource, file, timeout=timeout)
        return read_curves(b"".join(pieces))

    def _updates(self, job: str, token: str, seconds: float | None) -> Iterator[Job | JobEvent]:
        return self._stream(job_service_pb2.WatchJobRequest(id=job, resume_token=token), seconds)

    def _stream(
        self, request: job_service_pb2.WatchJobRequest, seconds: float | None
    ) -> Iterator[Job | JobEvent]:
        with translated(self._address):
            for response in self._stub.WatchJob(request, timeout=seconds):
                if response.WhichOneof("update") == "job":
                    yield job_value(response.job)
                else:
                    yield event_value(response.event)
