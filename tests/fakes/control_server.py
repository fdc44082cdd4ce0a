"""A real control server on a port of its own, and stubs to call it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tests.fakes.registry import manifest_of
from tests.fakes.valkey import Valkey

from saeserve.control.server import running
from saeserve.control.settings import ControlSettings
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.payloads import AttemptStarted, MetricsReported
from saeserve.jobs.record import Event, Lease, Output, Result
from saeserve.jobs.redis_index import RedisIndex
from saeserve.jobs.states import JobState
from saeserve.platform.grpc_server import GrpcServer
from saeserve.platform.store import ArtifactStore
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.models import ModelRegistry
from saeserve.registry.roots import Roots
from saeserve.v1 import (
    dataset_service_pb2_grpc,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    model_service_pb2_grpc,
    spec_pb2,
)

ABSENT = "j-00000000000000000000"
TIMEOUT = 120.0


class Control:
    """A running control service and what a test needs around it."""

    def __init__(
        self,
        folder: Path,
        valkey: Valkey,
        ca: Path | None = None,
        **changes: Any,  # noqa: ANN401 - any field
    ) -> None:
        """`changes` are settings; `ca` is that of the server's certificate, if it has one."""
        self._ca = ca
        self.root = folder / "root"
        self.root.mkdir(exist_ok=True)
        self.folder = folder
        self.valkey = valkey
        known: dict[str, Any] = dict(
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
        self.settings = ControlSettings(**{**known, **changes})
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
        self.channel = self._channel(self.server.bound)
        self.jobs = job_service_pb2_grpc.JobServiceStub(self.channel)
        self.data = dataset_service_pb2_grpc.DatasetServiceStub(self.channel)
        self.names = model_service_pb2_grpc.ModelServiceStub(self.channel)
        grpc.channel_ready_future(self.channel).result(TIMEOUT)

    def _channel(self, address: str) -> grpc.Channel:
        if self._ca is None:
            return grpc.insecure_channel(address)
        known = grpc.ssl_channel_credentials(self._ca.read_bytes())
        return grpc.secure_channel(address, known)

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
    for op, payload in enumerate((AttemptStarted(), MetricsReported(metrics={"fvu": 0.5}))):
        index.append(job, Event(epoch=1, op=op, time=time.time(), step=op, payload=payload))
    outputs = (Output(model="models/sae/versions/1", metrics={"fvu": 0.5}),)
    control.ledger.finish(
        Result(job=job, epoch=1, state=JobState.SUCCEEDED, outputs=outputs, time=time.time())
    )
    index.finish(job, 1, JobState.SUCCEEDED, outputs, None)
