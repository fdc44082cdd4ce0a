"""Data sets, models, bad input and stock clients on a real control server."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tests.fakes.control_server import (
    ABSENT,
    TIMEOUT,
    Control,
    refused,
    train_spec,
)
from tests.fakes.registry import write_export
from tests.fakes.valkey import Valkey

from saeserve.v1 import (
    dataset_pb2,
    dataset_service_pb2,
    job_pb2,
    job_service_pb2,
    model_service_pb2,
    spec_pb2,
)


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
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert upload(huge) == (exhausted, "DISK_FULL", "header.size_bytes")
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
        (train_spec(tokens=1, batch_size=2), {}, "INVALID_ARGUMENT", "spec.train.tokens"),
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
