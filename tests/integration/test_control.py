"""The control service for real: its server, a Valkey, a store, and clients over a socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from tests.fakes.control_server import (
    ABSENT,
    TIMEOUT,
    Control,
    eventually,
    refused,
    run_to_the_end,
)

from saeserve.client.values import job_value
from saeserve.core.planning.machine import Machine
from saeserve.jobs.redis_index import RedisIndex
from saeserve.v1 import (
    job_pb2,
    job_service_pb2,
    spec_pb2,
)


def test_submit_get_and_list(control: Control) -> None:
    control.ready()
    answer = control.submit(owner="ann", labels={"sweep": "a"}, request_id="r1")
    job = answer.job
    assert job.state == job_pb2.JOB_STATE_QUEUED
    assert not job.spec.train.HasField("batch_size")
    assert job.resolved_spec.train.batch_size == 32
    assert job.resolved_spec.train.source == "x"
    assert answer.plan.steps == 4096 // 32
    assert answer.plan.parameters == 2 * 4 * 8 + 8 + 4
    assert control.get(job.id) == job
    assert control.submit(owner="ann", labels={"sweep": "a"}, request_id="r1").job.id == job.id
    other = control.submit(owner="bob").job
    listed = control.jobs.ListJobs(
        job_service_pb2.ListJobsRequest(
            filter=job_service_pb2.JobFilter(owner="ann", kinds=["train"], labels={"sweep": "a"})
        )
    )
    assert [each.id for each in listed.jobs] == [job.id]
    everything = control.jobs.ListJobs(job_service_pb2.ListJobsRequest())
    assert [each.id for each in everything.jobs] == [other.id, job.id]


def test_a_job_says_where_each_value_comes_from_that_was_not_given(control: Control) -> None:
    control.ready()
    spec: dict[str, Any] = {
        "dataset": "acts",
        "preset": "gemma-scope",
        "d_sae": 4096,
        "tokens": 200_000,
    }

    def send(**changes: Any) -> job_service_pb2.SubmitJobResponse:  # noqa: ANN401 - any field
        wanted = spec_pb2.JobSpec(train=spec_pb2.TrainSpec(**spec))
        return control.jobs.SubmitJob(job_service_pb2.SubmitJobRequest(spec=wanted, **changes))

    answer = send()
    told = {each.field: each for each in answer.job.field_sources}
    batch = told["batch_size"]
    assert (batch.value, batch.replaced, batch.origin) == ("256", "4096", "preset_changed")
    assert "500 steps" in batch.reason
    assert (told["source"].value, told["source"].origin) == ('"x"', "fitted")
    assert (told["optimizer.lr"].value, told["optimizer.lr"].origin) == ("7e-05", "preset")
    assert not set(spec) & set(told)
    assert list(answer.plan.field_sources) == list(answer.job.field_sources)
    assert control.get(answer.job.id).field_sources == answer.job.field_sources
    planned = send(validate_only=True)
    assert list(planned.plan.field_sources) == list(answer.plan.field_sources)
    [listed] = control.jobs.ListJobs(job_service_pb2.ListJobsRequest()).jobs
    assert not listed.field_sources


def test_pages_and_their_tokens(control: Control) -> None:
    control.ready()
    jobs = sorted((control.submit().job.id for _ in range(5)), reverse=True)
    states = [job_pb2.JOB_STATE_QUEUED]
    request = job_service_pb2.ListJobsRequest(
        page_size=2, filter=job_service_pb2.JobFilter(states=states)
    )
    seen = list[str]()
    while True:
        page = control.jobs.ListJobs(request)
        seen += [job.id for job in page.jobs]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == jobs
    assert len(page.jobs) == 1
    request.filter.owner = "ann"
    code, reason, field = refused(lambda: control.jobs.ListJobs(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert (reason, field) == ("BAD_PAGE_TOKEN", "page_token")


def test_watch_and_resume(control: Control) -> None:
    control.ready()
    job = control.submit().job.id
    updates = control.jobs.WatchJob(job_service_pb2.WatchJobRequest(id=job), timeout=TIMEOUT)
    first = next(updates)
    assert first.job.state == job_pb2.JOB_STATE_QUEUED
    run_to_the_end(control, job)
    rest = list(updates)
    events = [update.event for update in rest[:-1]]
    assert [event.WhichOneof("payload") for event in events] == [
        "state_changed",
        "state_changed",
        "state_changed",
        "attempt_started",
        "metrics_reported",
        "state_changed",
    ]
    assert events[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
    assert rest[-1].job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert rest[-1].job.outputs[0].model == "models/sae/versions/1"
    again = job_service_pb2.WatchJobRequest(id=job, resume_token=events[2].token)
    resumed = list(control.jobs.WatchJob(again, timeout=TIMEOUT))
    assert [update.event for update in resumed[1:-1]] == events[3:]


def test_a_queued_job_says_why_it_waits_everywhere(control: Control) -> None:
    control.ready()
    job = control.submit().job.id
    nobody = "no live worker of class cpu; place 1 of 1 in its queue"
    found = control.jobs.GetJob(job_service_pb2.GetJobRequest(id=job)).job
    [listed] = control.jobs.ListJobs(job_service_pb2.ListJobsRequest()).jobs
    updates = control.jobs.WatchJob(job_service_pb2.WatchJobRequest(id=job), timeout=TIMEOUT)
    first = next(updates).job
    assert {each.waiting.reason for each in (found, listed, first)} == {nobody}
    machine = Machine(kind="two threads", memory_bytes=2**34)
    with control.valkey.client() as client:
        RedisIndex(client).announce("cpu", "w-1", machine, 60.0)
    again = next(update.job for update in updates if update.HasField("job"))
    assert again.state == job_pb2.JOB_STATE_QUEUED
    assert again.waiting.workers == 1
    value = job_value(again)
    assert value.waiting is not None
    assert (value.waiting.place, value.waiting.workers) == (1, 1)
    run_to_the_end(control, job)
    last = [update.job for update in updates if update.HasField("job")][-1]
    assert last.state == job_pb2.JOB_STATE_SUCCEEDED
    assert not last.HasField("waiting")


def test_watch_refuses_what_is_not_its_own(control: Control) -> None:
    control.ready()
    job = control.submit().job.id

    def watch(**fields: Any) -> Callable[[], object]:  # noqa: ANN401 - any field
        request = job_service_pb2.WatchJobRequest(**fields)
        return lambda: list(control.jobs.WatchJob(request, timeout=TIMEOUT))

    assert refused(watch(id=ABSENT))[0] is grpc.StatusCode.NOT_FOUND
    code, reason, field = refused(watch(id=job, resume_token="made-up"))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BAD_RESUME_TOKEN")
    assert field == "resume_token"


def test_cancel(control: Control) -> None:
    control.ready()
    job = control.submit().job
    stale = job_service_pb2.CancelJobRequest(id=job.id, etag="0" * 16)
    code, reason, _ = refused(lambda: control.jobs.CancelJob(stale))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "ETAG_MISMATCH")
    request = job_service_pb2.CancelJobRequest(id=job.id, etag=job.etag)
    assert control.jobs.CancelJob(request).job.state == job_pb2.JOB_STATE_CANCELLED
    again = job_service_pb2.CancelJobRequest(id=job.id)
    assert control.jobs.CancelJob(again).job.state == job_pb2.JOB_STATE_CANCELLED
    updates = list(control.jobs.WatchJob(job_service_pb2.WatchJobRequest(id=job.id)))
    assert updates[-1].job.state == job_pb2.JOB_STATE_CANCELLED
    done = control.submit().job.id
    run_to_the_end(control, done)
    code, reason, _ = refused(
        lambda: control.jobs.CancelJob(job_service_pb2.CancelJobRequest(id=done))
    )
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_ENDED")


def test_jobs_go_on_without_the_index(control: Control) -> None:
    control.ready()
    known = control.submit().job.id
    control.valkey.stop()
    try:
        unknown = control.submit().job.id
        assert control.get(unknown).state == job_pb2.JOB_STATE_QUEUED
        listed = control.jobs.ListJobs(job_service_pb2.ListJobsRequest())
        assert [job.id for job in listed.jobs] == [unknown, known]
        watch = job_service_pb2.WatchJobRequest(id=known)
        code, reason, _ = refused(lambda: list(control.jobs.WatchJob(watch, timeout=TIMEOUT)))
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "INDEX_UNAVAILABLE")
    finally:
        control.valkey.start()
    eventually(lambda: sorted(control.index().ids()) == sorted([known, unknown]))
    eventually(lambda: bool(control.valkey.client().llen("saeserve.cpu")))
