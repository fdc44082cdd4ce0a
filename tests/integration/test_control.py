"""The control service for real: its server, a Valkey, a store, and clients over a socket."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status
from tests.fakes.registry import manifest_of, write_export
from tests.fakes.valkey import Valkey

from saeserve.control.server import running
from saeserve.control.settings import ControlSettings
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.record import Event, Lease, Output, Result
from saeserve.jobs.redis_index import RedisIndex
from saeserve.jobs.states import JobState
from saeserve.platform.grpc_server import GrpcServer
from saeserve.platform.store import ArtifactStore
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.models import ModelRegistry
from saeserve.registry.roots import Roots
from saeserve.v1 import (
    dataset_pb2,
    dataset_service_pb2,
    dataset_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    spec_pb2,
)

ABSENT = "j-00000000000000000000"
TIMEOUT = 30.0


class Control:
    """A running control service and what a test needs around it."""

    def __init__(self, folder: Path, valkey: Valkey) -> None:
        self.root = folder / "root"
        self.root.mkdir()
        self.folder = folder
        self.valkey = valkey
        self.settings = ControlSettings(
            store=folder / "store",
            run=folder / "run",
            redis_url=valkey.url,
            roots={"files": self.root},
            control_address="127.0.0.1:0",
            control_metrics_address="127.0.0.1:0",
            reconcile_seconds=0.1,
            watch_seconds=0.02,
            grace_seconds=5.0,
        )
        self.store = ArtifactStore(self.settings.store)
        self.ledger = Ledger(self.store)
        self.datasets = DatasetRegistry(self.store, Roots(self.settings.roots))
        self.models = ModelRegistry(self.store)
        self.server: GrpcServer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._up = threading.Event()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with running(self.settings) as parts:
            self.server = parts.server
            self._up.set()
            await self._stopped.wait()

    def start(self) -> None:
        self._thread.start()
        assert self._up.wait(TIMEOUT)
        assert self.server is not None
        self.channel = grpc.insecure_channel(self.server.bound)
        self.jobs = job_service_pb2_grpc.JobServiceStub(self.channel)
        self.data = dataset_service_pb2_grpc.DatasetServiceStub(self.channel)
        self.names = model_service_pb2_grpc.ModelServiceStub(self.channel)
        grpc.channel_ready_future(self.channel).result(TIMEOUT)

    def request_stop(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stopped.set)

    def stop(self) -> None:
        self.request_stop()
        self._thread.join(TIMEOUT)
        self.channel.close()

    def ready(self, name: str = "acts", **changes: Any) -> None:  # noqa: ANN401 - any field
        self.datasets.create(name)
        self.datasets.commit(name, manifest_of(name, **changes).to_bytes())

    def submit(self, **changes: Any) -> job_service_pb2.SubmitJobResponse:  # noqa: ANN401 - any field
        request = job_service_pb2.SubmitJobRequest(spec=train_spec(), **changes)
        return self.jobs.SubmitJob(request, timeout=TIMEOUT)

    def get(self, job: str) -> job_pb2.Job:
        return self.jobs.GetJob(job_service_pb2.GetJobRequest(id=job), timeout=TIMEOUT).job

    def index(self) -> RedisIndex:
        return RedisIndex(self.valkey.client())


def train_spec(**changes: Any) -> spec_pb2.JobSpec:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {
        "dataset": "acts",
        "model": "sae",
        "d_sae": 8,
        "tokens": 4096,
        "topk": spec_pb2.TopKSpec(k=2),
    }
    return spec_pb2.JobSpec(train=spec_pb2.TrainSpec(**(fields | changes)))


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    # Short names: a unix socket's path has little room.
    with Valkey(tmp_path_factory.mktemp("v")) as server:
        yield server


@pytest.fixture
def control(tmp_path: Path, valkey: Valkey) -> Iterator[Control]:
    valkey.flush()
    service = Control(tmp_path, valkey)
    service.start()
    yield service
    service.stop()


def refused(call: Callable[[], object]) -> tuple[grpc.StatusCode, str, str]:
    """(code, reason, field) of the error that `call` ends with; its remedy is never empty."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = cast("grpc.Call", caught.value)
    status = cast(Any, rpc_status).from_call(error)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.metadata["remedy"]
    return error.code(), info.reason, info.metadata.get("field", "")


def eventually(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def run_to_the_end(control: Control, job: str) -> None:
    """What a worker does, without a worker."""
    index = control.index()
    taken = index.acquire("cpu", "worker", 30.0)
    assert taken is not None
    claim = control.ledger.claim(job, "worker", time.time())
    assert index.start(Lease(job=job, epoch=claim.epoch, owner="worker"), charged=True)
    for op, kind in enumerate(("attempt_started", "metrics")):
        data = {"resume_step": 0} if op == 0 else {"metrics": {"fvu": 0.5}}
        index.append(job, Event(epoch=1, op=op, time=time.time(), step=op, type=kind, data=data))
    outputs = (Output(model="models/sae/versions/1", metrics={"fvu": 0.5}),)
    control.ledger.finish(
        Result(job=job, epoch=1, state=JobState.SUCCEEDED, outputs=outputs, time=time.time())
    )
    index.finish(job, 1, JobState.SUCCEEDED, outputs, None)


def test_submit_get_and_list(control: Control) -> None:
    control.ready()
    answer = control.submit(owner="ann", labels={"sweep": "a"}, request_id="r1")
    job = answer.job
    assert job.state == job_pb2.JOB_STATE_QUEUED
    assert not job.spec.train.HasField("batch_size")
    assert job.resolved_spec.train.batch_size == 2048
    assert job.resolved_spec.train.source == "x"
    assert answer.plan.steps == 2
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


def test_watch_refuses_what_is_not_its_own(control: Control) -> None:
    control.ready()
    job = control.submit().job.id

    def watch(**fields: str) -> Callable[[], object]:
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


def chunks(header: dict[str, Any], data: bytes, start: int, size: int) -> Iterator[Any]:
    request = dataset_service_pb2.UploadDatasetRequest
    yield request(header=dataset_service_pb2.UploadHeader(**header))
    for offset in range(start, len(data), size):
        part = data[offset : offset + size]
        chunk = dataset_service_pb2.UploadChunk(offset=offset, data=part, crc32=zlib.crc32(part))
        yield request(chunk=chunk)


def test_upload_breaks_goes_on_and_is_ingested(control: Control) -> None:
    data = bytes(range(256)) * 64
    header: dict[str, Any] = {
        "dataset": "mine",
        "file_name": "a.npy",
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    half = list(chunks(header, data[:8000], 0, 1000))
    code, reason, _ = refused(lambda: control.data.UploadDataset(iter(half)))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "UPLOAD_INCOMPLETE")
    asked = dataset_service_pb2.GetUploadRequest(dataset="mine", file_name="a.npy")
    assert control.data.GetUpload(asked).received_bytes == 8000
    answer = control.data.UploadDataset(chunks(header, data, 8000, 4096))
    assert answer.dataset.state == dataset_pb2.DATASET_STATE_PENDING
    assert answer.dataset.files[0].received_bytes == len(data)
    assert control.data.GetUpload(asked).complete
    assert control.datasets.paths("mine")[0].read_bytes() == data
    spec = spec_pb2.JobSpec(ingest=spec_pb2.IngestSpec(dataset="mine"))
    request = job_service_pb2.SubmitJobRequest(spec=spec)
    assert control.jobs.SubmitJob(request).plan.disk_bytes == len(data)


def test_uploads_that_are_refused(control: Control) -> None:
    data = b"12345678"
    header: dict[str, Any] = {
        "dataset": "mine",
        "file_name": "a.npy",
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }

    def upload(parts: Iterator[Any]) -> tuple[grpc.StatusCode, str, str]:
        return refused(lambda: control.data.UploadDataset(parts))

    invalid, state = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
    assert upload(iter(()))[::2] == (invalid, "header")
    assert upload(chunks(header | {"file_name": "a.pt"}, data, 0, 8))[2] == "header.file_name"
    assert upload(chunks(header | {"sha256": "x"}, data, 0, 8))[2] == "header.sha256"
    huge = chunks(header | {"size_bytes": 2**60}, data, 0, 8)
    assert upload(huge) == (state, "DISK_FULL", "header.size_bytes")
    assert control.datasets.names() == []
    assert upload(chunks(header, data, 4, 8)) == (state, "OFFSET_MISMATCH", "chunk.offset")
    wrong = header | {"sha256": "0" * 64}
    assert upload(chunks(wrong, data, 0, 8)) == (invalid, "SHA256_MISMATCH", "header.sha256")
    bad_crc = list(chunks(header, data, 0, 8))
    bad_crc[1].chunk.crc32 ^= 1
    assert upload(iter(bad_crc)) == (invalid, "CRC_MISMATCH", "chunk.crc32")
    assert upload(iter([*chunks(header, data, 0, 8)][:1] * 2))[2] == "chunk"


def test_register_look_list_and_delete(control: Control) -> None:
    (control.root / "a.npy").write_bytes(b"12345")
    request = dataset_service_pb2.RegisterDatasetRequest(dataset="reg", files=["files:a.npy"])
    answer = control.data.RegisterDataset(request)
    assert answer.dataset.files[0].size_bytes == 5
    bad = dataset_service_pb2.RegisterDatasetRequest(dataset="bad", files=["files:../a.npy"])
    code, _, field = refused(lambda: control.data.RegisterDataset(bad))
    assert (code, field) == (grpc.StatusCode.INVALID_ARGUMENT, "files[0]")
    control.ready(language_model="files:smol")
    found = control.data.GetDataset(dataset_service_pb2.GetDatasetRequest(name="acts")).dataset
    assert (found.rows, found.heldout_rows, found.sources[0].d) == (1000, 100, 4)
    assert found.manifest_sha256 == control.datasets.manifest("acts").sha256
    listing = dataset_service_pb2.ListDatasetsRequest(page_size=1)
    first = control.data.ListDatasets(listing)
    listing.page_token = first.next_page_token
    second = control.data.ListDatasets(listing)
    assert [first.datasets[0].name, second.datasets[0].name] == ["acts", "reg"]
    assert not second.next_page_token
    job = control.submit().job.id
    doomed = dataset_service_pb2.DeleteDatasetRequest(name="acts")
    with pytest.raises(grpc.RpcError) as caught:
        control.data.DeleteDataset(doomed)
    assert job in str(cast("grpc.Call", caught.value).details())
    doomed.force = True
    control.data.DeleteDataset(doomed)
    code, _, field = refused(lambda: control.data.DeleteDataset(doomed))
    assert (code, field) == (grpc.StatusCode.NOT_FOUND, "name")


def test_models_and_aliases(control: Control) -> None:
    export = write_export(control.folder / "export")
    for job in ("j-1", "j-2"):
        control.models.publish("sae", job, 0, export)
    set_alias = model_service_pb2.SetAliasRequest(name="sae", alias="prod", version=1)
    assert list(control.names.SetAlias(set_alias).model.aliases) == ["prod"]
    get = model_service_pb2.GetModelRequest
    found = control.names.GetModel(get(model="sae@prod")).model
    assert (found.resource, found.k, found.d_sae) == ("models/sae/versions/1", 2, 8)
    assert (found.activation, found.dataset, found.metrics["fvu"]) == ("topk", "acts", 0.25)
    listing = model_service_pb2.ListModelsRequest(page_size=1, name="sae")
    first = control.names.ListModels(listing)
    listing.page_token = first.next_page_token
    second = control.names.ListModels(listing)
    assert [first.models[0].version, second.models[0].version] == [2, 1]
    assert not second.next_page_token
    doomed = model_service_pb2.DeleteModelRequest(model="sae@1")
    code, reason, _ = refused(lambda: control.names.DeleteModel(doomed))
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "IN_USE")
    control.names.DeleteAlias(model_service_pb2.DeleteAliasRequest(name="sae", alias="prod"))
    control.names.DeleteModel(doomed)
    for reference, code in (
        ("sae@1", grpc.StatusCode.NOT_FOUND),
        ("sae@prod", grpc.StatusCode.NOT_FOUND),
        ("../sae", grpc.StatusCode.INVALID_ARGUMENT),
    ):
        request = get(model=reference)
        assert refused(lambda request=request: control.names.GetModel(request))[0] is code


@pytest.mark.parametrize(
    ("spec", "changes", "code", "field"),
    [
        (spec_pb2.JobSpec(), {}, "INVALID_ARGUMENT", "spec"),
        (train_spec(d_sae=0), {}, "INVALID_ARGUMENT", "spec.train.d_sae"),
        (train_spec(topk=spec_pb2.TopKSpec(k=9)), {}, "INVALID_ARGUMENT", "spec.train.topk.k"),
        (train_spec(tokens=1), {}, "INVALID_ARGUMENT", "spec.train.tokens"),
        (train_spec(device="tpu"), {}, "INVALID_ARGUMENT", "spec.train.device"),
        (train_spec(topk=None), {}, "INVALID_ARGUMENT", "spec.train"),
        (train_spec(model="a/b"), {}, "INVALID_ARGUMENT", "spec.train.model"),
        (train_spec(source="y"), {}, "INVALID_ARGUMENT", "spec.train.source"),
        (train_spec(dataset="gone"), {}, "NOT_FOUND", "spec.train.dataset"),
        (train_spec(dataset="pending"), {}, "FAILED_PRECONDITION", "spec.train.dataset"),
        (train_spec(), {"waits_for": ["x"]}, "INVALID_ARGUMENT", "waits_for[0]"),
        (train_spec(), {"waits_for": [ABSENT]}, "NOT_FOUND", ""),
        (train_spec(), {"max_attempts": -1}, "INVALID_ARGUMENT", "max_attempts"),
        (train_spec(seed=1), {"request_id": "r"}, "ALREADY_EXISTS", "request_id"),
    ],
)
def test_bad_submissions(
    control: Control, spec: spec_pb2.JobSpec, changes: dict[str, Any], code: str, field: str
) -> None:
    control.ready()
    control.datasets.create("pending")
    standing = control.submit(request_id="r").job.id
    request = job_service_pb2.SubmitJobRequest(spec=spec, **changes)
    assert refused(lambda: control.jobs.SubmitJob(request))[::2] == (
        grpc.StatusCode[code],
        field,
    )
    assert control.ledger.jobs() == [standing]


def test_bad_lookups(control: Control) -> None:
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    get, listing = job_service_pb2.GetJobRequest, job_service_pb2.ListJobsRequest
    wanted = job_service_pb2.JobFilter
    assert refused(lambda: control.jobs.GetJob(get(id="../x")))[::2] == (invalid, "id")
    assert refused(lambda: control.jobs.GetJob(get(id=ABSENT)))[0] is grpc.StatusCode.NOT_FOUND
    for request, field in (
        (listing(page_size=-1), "page_size"),
        (listing(page_token="x"), "page_token"),
        (listing(filter=wanted(kinds=["dance"])), "filter.kinds[0]"),
        (listing(filter=wanted(states=[job_pb2.JOB_STATE_UNSPECIFIED])), "filter.states[0]"),
    ):
        call = refused(lambda request=request: control.jobs.ListJobs(request))
        assert call[::2] == (invalid, field)


def test_a_stock_client_submits_by_reflection_alone(control: Control) -> None:
    control.ready()
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(control.channel))
    service = pool.FindServiceByName("saeserve.v1.JobService")
    method = service.FindMethodByName("SubmitJob")
    request = message_factory.GetMessageClass(method.input_type)()
    train = cast(Any, request).spec.train
    train.dataset, train.model, train.d_sae, train.tokens, train.topk.k = "acts", "sae", 8, 4096, 2
    call = cast(Any, control.channel).unary_unary(
        f"/{service.full_name}/{method.name}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    assert control.get(call(request).job.id).state == job_pb2.JOB_STATE_QUEUED


def test_health_without_the_index(control: Control) -> None:
    check = cast(Any, control.channel).unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    control.valkey.stop()
    try:
        request = health_pb2.HealthCheckRequest(service="saeserve.v1.JobService")
        assert check(request).status == health_pb2.HealthCheckResponse.SERVING
    finally:
        control.valkey.start()


def test_a_stop_ends_watches(control: Control) -> None:
    control.ready()
    job = control.submit().job.id
    updates = control.jobs.WatchJob(job_service_pb2.WatchJobRequest(id=job), timeout=TIMEOUT)
    next(updates)
    control.request_stop()
    code, reason, _ = refused(lambda: list(updates))
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "STOPPING")


def process(folder: Path, valkey: Valkey, **settings: str) -> subprocess.Popen[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "SAESERVE_STORE": str(folder / "store"),
        "SAESERVE_REDIS_URL": valkey.url,
        "SAESERVE_CONTROL_ADDRESS": "127.0.0.1:0",
        "SAESERVE_CONTROL_METRICS_ADDRESS": "127.0.0.1:0",
        **settings,
    }
    command = [sys.executable, "-m", "saeserve.control"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_the_process_says_when_it_is_ready_and_stops_on_sigterm(
    tmp_path: Path, valkey: Valkey
) -> None:
    with process(tmp_path, valkey) as service:
        assert service.stderr is not None
        ready = next(line for line in service.stderr if "ready" in line)
        [metrics] = re.findall(r"metrics=(\S+)", ready)
        with urllib.request.urlopen(f"http://{metrics}/metrics") as answer:
            figures = answer.read().decode()
        service.send_signal(signal.SIGTERM)
        rest = service.stderr.read()
        assert service.wait(TIMEOUT) == 0
    assert "saeserve_build_info{" in figures
    assert "saeserve_index_rebuilds_total" in figures
    assert "Traceback" not in rest


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"SAESERVE_CONTROL_ADDRESS": "0.0.0.0:0"}, "SAESERVE_INSECURE"),
        ({"SAESERVE_MAX_ATTEMPTS": "0"}, "SAESERVE_MAX_ATTEMPTS"),
        ({"SAESERVE_REDIS_URL": "http://x"}, "SAESERVE_REDIS_URL"),
        ({"SAESERVE_STORE": "/proc/store"}, "SAESERVE_STORE"),
    ],
)
def test_a_process_that_cannot_start_says_why_in_one_line(
    tmp_path: Path, valkey: Valkey, settings: dict[str, str], word: str
) -> None:
    with process(tmp_path, valkey, **settings) as service:
        _, told = service.communicate(timeout=TIMEOUT)
    assert service.returncode == 2
    [line] = told.splitlines()
    assert word in line
