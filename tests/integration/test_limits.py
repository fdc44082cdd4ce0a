"""What no caller can do to a real control service: fill it, break its listings, or slow others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, cast

import grpc
import pytest
from tests.fakes.control_server import TIMEOUT, Control, eventually, refused, train_spec
from tests.fakes.jobs import record, submission
from tests.fakes.valkey import ask

from saeserve.jobs.large_specs import INDEXED_CHARACTERS
from saeserve.jobs.record import Submission
from saeserve.platform.messages import USUAL_BYTES
from saeserve.v1 import dataset_service_pb2, job_pb2, job_service_pb2, spec_pb2

HUGE = "j-00000000000000000001"
SERVICES = {
    "JobService": ("SubmitJob", "GetJob", "ListJobs", "CancelJob", "WatchJob"),
    "DatasetService": ("UploadDataset", "GetDataset", "ListDatasets", "RegisterDataset"),
    "ModelService": ("GetModel", "ListModels", "SetAlias"),
}
METHODS = [
    f"/saeserve.v1.{service}/{name}" for service, names in SERVICES.items() for name in names
]


def huge_submission() -> Submission:
    """As a release without limits may have committed it."""
    sources = [{"tensor": f"t{number}", "source": "s" * 100} for number in range(50_000)]
    spec = {"ingest": {"dataset": "acts", "sources": sources}}
    return submission(HUGE, kind="ingest", spec=spec, resolved_spec=spec)


def listed(control: Control, size: int = 0) -> Iterator[job_service_pb2.ListJobsResponse]:
    request = job_service_pb2.ListJobsRequest(page_size=size)
    while True:
        page = control.jobs.ListJobs(request, timeout=TIMEOUT)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def call(control: Control, method: str, data: bytes) -> object:
    channel = cast(Any, control.channel)
    if method.endswith("/UploadDataset"):
        return channel.stream_unary(method)(iter([data]), timeout=TIMEOUT)
    if method.endswith("/WatchJob"):
        return list(channel.unary_stream(method)(data, timeout=TIMEOUT))
    return channel.unary_unary(method)(data, timeout=TIMEOUT)


@pytest.mark.parametrize("entries", [1001, 300_000])
def test_a_spec_with_too_many_entries_is_refused_and_nothing_is_kept(
    control: Control, entries: int
) -> None:
    """Within the size of a message the list is named; beyond, the message is refused."""
    spec = spec_pb2.JobSpec()
    spec.ingest.dataset = "acts"
    for _ in range(entries):
        spec.ingest.sources.add()
    control.ready()
    request = job_service_pb2.SubmitJobRequest(spec=spec, request_id="r")
    code, reason, field = refused(lambda: control.jobs.SubmitJob(request))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_MANY")
    assert field == "spec.ingest.sources"
    assert control.ledger.jobs() == []
    assert control.store.names("requests") == []
    assert list(listed(control)) == [job_service_pb2.ListJobsResponse()]


@pytest.mark.parametrize("method", METHODS)
def test_a_request_of_more_than_a_mebibyte_is_refused(control: Control, method: str) -> None:
    size = (5 if method.endswith("/UploadDataset") else 2) * USUAL_BYTES
    with pytest.raises(grpc.RpcError) as caught:
        call(control, method, bytes(size))
    code = cast("grpc.Call", caught.value).code()
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_chunks_of_an_upload_may_be_larger(control: Control) -> None:
    request = dataset_service_pb2.UploadDatasetRequest()
    request.chunk.data = bytes(3 * USUAL_BYTES)
    code, reason, _ = refused(lambda: control.data.UploadDataset(iter([request]), timeout=TIMEOUT))
    # Read, and found to come before its header.
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")


@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_message_is_invalid_and_told_in_one_line(
    control: Control, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        code, reason, _ = refused(lambda: call(control, method, b"\x0a\xff\xff"))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED")
    told = [each for each in caplog.records if method in each.getMessage()]
    assert len(told) == 1
    assert not [each for each in caplog.records if each.exc_info]


def check_huge(control: Control) -> None:
    """Its listing, itself, and its cancellation are answered, and say that they are not whole."""
    (page,) = listed(control)
    assert [job.id for job in page.jobs] == [HUGE]
    for job in (page.jobs[0], control.get(HUGE)):
        assert job.spec_cut
        assert job.spec.ingest.dataset == "acts"
        assert 0 < len(job.spec.ingest.sources) < 100
    request = job_service_pb2.CancelJobRequest(id=HUGE)
    assert control.jobs.CancelJob(request, timeout=TIMEOUT).job.spec_cut


def test_a_huge_spec_in_the_store_spoils_no_listing(control: Control) -> None:
    control.ledger.submit(huge_submission())
    with control.valkey.client() as client:
        ask(client, "FLUSHALL")
    eventually(lambda: control.index().get(HUGE) is not None)
    check_huge(control)


def test_a_huge_spec_in_the_index_is_shortened_once(control: Control) -> None:
    """An older release put it there whole."""
    whole = huge_submission()
    control.ledger.submit(whole)
    with control.valkey.client() as client:
        control.index().put(record(HUGE, kind="ingest", spec=whole.spec, resolved_spec={}))
        ask(client, "HSET", f"saeserve:job:{HUGE}", "submission", whole.model_dump_json())
        ask(client, "HDEL", f"saeserve:job:{HUGE}", "spec_cut")
        check_huge(control)
        length = ask(client, "HSTRLEN", f"saeserve:job:{HUGE}", "submission")
    assert cast(int, length) < INDEXED_CHARACTERS


def test_a_page_ends_before_it_grows_too_large(control: Control) -> None:
    control.ready()
    labels = {f"{number:02d}" + "n" * 250: "v" * 256 for number in range(64)}
    jobs = {control.submit(labels=labels).job.id for _ in range(40)}
    pages = list(listed(control, 1000))
    assert len(pages) > 1
    assert all(page.ByteSize() < 2 * USUAL_BYTES for page in pages)
    told = [job.id for page in pages for job in page.jobs]
    assert (len(told), set(told)) == (len(jobs), jobs)


def test_specs_of_a_usual_size_are_listed_whole(control: Control) -> None:
    control.ready()
    job = control.submit().job
    (page,) = listed(control)
    for each in (job, *page.jobs):
        # Why it waits changes meanwhile; where values come from is left out of lists.
        each.ClearField("waiting")
        each.ClearField("field_sources")
    assert page.jobs == [job]
    assert page.jobs[0].spec == train_spec()


def test_a_filter_is_bounded(control: Control) -> None:
    states = [job_pb2.JOB_STATE_QUEUED] * 101
    request = job_service_pb2.ListJobsRequest(filter=job_service_pb2.JobFilter(states=states))
    code, reason, field = refused(lambda: control.jobs.ListJobs(request))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_MANY")
    assert field == "filter.states"
