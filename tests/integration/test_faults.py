"""Kills, drains and lost data, on the real stack: nothing is lost, and no bit differs."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest
from tests.fakes.real_stack import RealStack, Service, alive
from tests.fakes.worker_bench import until

from saeserve.client.values import Job
from saeserve.jobs.states import JobState

STEPS = 600
EVERY = 50


def train_spec(model: str) -> dict[str, Any]:
    return {
        "train": {
            "dataset": "planted",
            "model": model,
            "topk": {"k": 4},
            "d_sae": 256,
            "tokens": STEPS * 128,
            "batch_size": 128,
            "checkpoint_every_steps": EVERY,
            "log_every_steps": 20,
            "eval_rows": 256,
        }
    }


@pytest.fixture(scope="module")
def base(make_stack: Callable[[], RealStack]) -> RealStack:
    """Broker and control; the tests start their own workers."""
    made = make_stack()
    made.start_broker()
    made.planted()
    made.control()
    return made


@pytest.fixture(scope="module")
def undisturbed(base: RealStack) -> bytes:
    """Weights of a run that nothing happened to."""
    worker = base.worker()
    job = base.wait(base.client.jobs.submit(train_spec("undisturbed")).id)
    assert job.state == "SUCCEEDED"
    worker.stop()
    return base.weights(job.outputs[0].model)


@pytest.fixture
def workers(base: RealStack) -> Generator[Callable[[], Service]]:
    """Starts workers that end with the test."""
    started: list[Service] = []

    def start() -> Service:
        started.append(base.worker())
        return started[-1]

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.stop()


def running(base: RealStack, worker: Service, model: str) -> tuple[str, int]:
    """A job that has committed a checkpoint, and its process."""
    job = base.client.jobs.submit(train_spec(model)).id
    base.wait_for_step(job, EVERY)
    (process,) = worker.job_processes
    return job, process


def finished(base: RealStack, job: str, attempts: int) -> Job:
    ended = base.wait(job)
    assert (ended.state, ended.error) == ("SUCCEEDED", None)
    assert ended.attempt == attempts
    return ended


def only_version(base: RealStack, job: Job) -> bytes:
    """Weights of the job's model, which has this one version."""
    resource = job.outputs[0].model
    name = resource.split("/")[1]
    assert base.models.keys(name) == [(name, 1)]
    return base.weights(resource)


def resumed_from(base: RealStack, job: str) -> int:
    """Step that the last attempt went on from."""
    started = [e for e in base.ledger.events(job) if e.type == "attempt_started"]
    return started[-1].data["resume_step"]


def test_a_killed_worker_and_job_process(
    base: RealStack, undisturbed: bytes, workers: Callable[[], Service]
) -> None:
    worker = workers()
    job, process = running(base, worker, "killed")
    os.kill(process, signal.SIGKILL)
    worker.kill()
    workers()
    ended = finished(base, job, attempts=2)
    assert resumed_from(base, job) >= EVERY
    assert only_version(base, ended) == undisturbed


def test_a_killed_job_process_is_tried_again_by_its_worker(
    base: RealStack, undisturbed: bytes, workers: Callable[[], Service]
) -> None:
    job, process = running(base, workers(), "crashed")
    os.kill(process, signal.SIGKILL)
    ended = finished(base, job, attempts=2)
    failure = base.ledger.failure(job, 1)
    assert failure is not None
    assert (failure.code, failure.cause) == ("CHILD_CRASHED", "SIGKILL")
    assert only_version(base, ended) == undisturbed


def test_a_drained_worker_gives_its_job_to_another_at_no_charge(
    base: RealStack, undisturbed: bytes, workers: Callable[[], Service]
) -> None:
    both = [workers(), workers()]
    job = base.client.jobs.submit(train_spec("drained")).id
    base.wait_for_step(job, EVERY)
    (busy,) = [worker for worker in both if worker.job_processes]
    (process,) = busy.job_processes
    assert busy.stop() == 0
    assert not alive(process)
    ended = finished(base, job, attempts=1)
    assert base.ledger.highest_epoch(job) == 2
    assert only_version(base, ended) == undisturbed


def test_a_worker_and_its_job_that_are_asked_to_stop_many_times_stop_once(
    base: RealStack, undisturbed: bytes, workers: Callable[[], Service]
) -> None:
    worker = workers()
    job, process = running(base, worker, "asked")
    # Each signal comes while the one before is being handled, or just before or after that.
    for _ in range(100):
        for pid in filter(alive, (process, worker.pid)):
            os.kill(pid, signal.SIGTERM)
        time.sleep(0.0005)
    assert worker.process.wait(60) == 0
    assert not alive(process)
    workers()
    ended = finished(base, job, attempts=1)
    assert only_version(base, ended) == undisturbed


def test_training_goes_on_while_the_broker_is_away(
    base: RealStack, undisturbed: bytes, workers: Callable[[], Service]
) -> None:
    job, process = running(base, workers(), "alone")
    base.kill_broker()
    at = base.checkpoint(job)
    base.wait_for_step(job, at + EVERY)
    base.start_broker()
    ended = finished(base, job, attempts=1)
    assert base.ledger.highest_epoch(job) == 1
    until(lambda: not alive(process))
    assert only_version(base, ended) == undisturbed


def test_worker_job_process_and_all_of_the_brokers_data_lost(
    base: RealStack, undisturbed: bytes, workers: Callable[[], Service]
) -> None:
    worker = workers()
    job, process = running(base, worker, "bereft")
    os.kill(process, signal.SIGKILL)
    worker.kill()
    base.kill_broker(lose_data=True)
    base.start_broker()
    workers()
    ended = finished(base, job, attempts=2)
    result = base.ledger.result(job)
    assert result is not None
    assert (result.state, result.epoch, result.steps) == (JobState.SUCCEEDED, 2, STEPS)
    assert only_version(base, ended) == undisturbed
    known = {each.id: each.state for each in base.client.jobs.list()}
    assert set(known) == set(base.ledger.jobs())
    assert set(known.values()) == {"SUCCEEDED"}
