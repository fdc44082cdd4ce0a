"""Workers and job processes that are paused past their lease, and go on after the job has ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.fakes.real_stack import RealStack, Service, alive, until

from saeserve.client.events import JobEvent

ROWS, D_IN, FILES = 40_000, 64, 4


def pause(worker: Service) -> int:
    """Stop the worker and its job process together, as when a machine is suspended."""
    (process,) = worker.job_processes
    os.kill(worker.pid, signal.SIGSTOP)
    os.kill(process, signal.SIGSTOP)
    return process


def resume(worker: Service, process: int) -> None:
    """Let both go on, and wait until the job process has ended."""
    for pid in (process, worker.pid):
        os.kill(pid, signal.SIGCONT)
    until(lambda: not alive(process), 240, "the end of the superseded job process")


@pytest.fixture
def stack(make_stack: Callable[[], RealStack]) -> RealStack:
    made = make_stack()
    made.start_broker()
    made.control()
    return made


def training(model: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
    spec = {"dataset": "planted", "model": model, "topk": {"k": 4}, "d_sae": 64, "eval_rows": 256}
    return {"train": {**spec, "batch_size": 64, "checkpoint_every_steps": 50, **fields}}


@pytest.mark.timeout(900)
def test_a_superseded_ingest_leaves_the_data_set_whole(stack: RealStack) -> None:
    rng = np.random.default_rng(0)
    for number in range(FILES):
        path = stack.folder / f"f{number}.npy"
        np.save(path, rng.standard_normal((ROWS, D_IN)).astype(np.float16))
        stack.client.datasets.upload("mine", path)
    first = stack.worker()
    job = stack.client.jobs.submit({"ingest": {"dataset": "mine", "shard_rows": 2048}}).id
    work = stack.store.path(f"datasets/mine/work/{job}/1/shards")
    until(lambda: work.exists() and any(work.glob("*.safetensors")), what="the first shard")
    process = pause(first)
    stack.worker()
    assert stack.wait(job, seconds=120).state == "SUCCEEDED"
    resume(first, process)
    found = stack.datasets.get("mine")
    assert found.manifest is not None
    sizes = [(found.folder / each.file).stat().st_size for each in found.manifest.shards]
    assert sizes == [each.size_bytes for each in found.manifest.shards]
    assert found.manifest.rows == ROWS * FILES
    trained = stack.client.jobs.submit(training("m", dataset="mine", tokens=640)).id
    assert stack.wait(trained, seconds=120).state == "SUCCEEDED"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("freeze_process", [False, True])
def test_a_cancelled_job_publishes_nothing_and_stops(
    stack: RealStack, freeze_process: bool
) -> None:
    stack.planted()
    worker = stack.worker()
    job = stack.client.jobs.submit(training("m", tokens=64 * 200_000)).id
    stack.wait_for_step(job, 50)
    process = pause(worker)
    if not freeze_process:
        os.kill(process, signal.SIGCONT)
    stack.wait(job, "QUEUED")
    stack.client.jobs.cancel(job)
    assert stack.wait(job).state == "CANCELLED"
    # With its worker frozen nobody tells the job process: the result in the store stops it.
    if not freeze_process:
        until(lambda: not alive(process), 240, "the end of the job process")
    resume(worker, process)
    assert list(stack.client.models.list()) == []
    assert stack.store.names("models/m/versions") == []
    assert stack.wait(job).state == "CANCELLED"


@pytest.mark.timeout(900)
def test_events_of_a_job_that_ended_without_the_broker_are_told(stack: RealStack) -> None:
    stack.planted()
    stack.worker()
    client = stack.client
    job = client.jobs.submit(training("m", tokens=64 * 600, log_every_steps=10)).id
    stack.wait_for_step(job, 50)
    stack.kill_broker()
    until(lambda: stack.ledger.result(job) is not None, 240, "the result")
    stack.start_broker()
    assert stack.wait(job, seconds=120).state == "SUCCEEDED"
    written = [event for event in stack.ledger.events(job) if event.type == "metrics"]
    seen = [each for each in client.jobs.watch(job) if isinstance(each, JobEvent)]
    told = [each.step for each in seen if each.type == "metrics_reported"]
    assert told == [event.step for event in written]
