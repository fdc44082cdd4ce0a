"""A job process that stands still, as a deadlock or a suspended process does."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from tests.fakes.real_stack import RealStack, alive, until

from saeserve.client.events import JobEvent
from saeserve.client.values import Job

MINIMUM_S = 10.0
SETTINGS = {"stall_minimum_seconds": str(MINIMUM_S), "stop_grace_seconds": "1"}


def training(model: str) -> dict[str, Any]:
    spec = {"dataset": "planted", "model": model, "topk": {"k": 4}, "d_sae": 64, "eval_rows": 256}
    return {"train": {**spec, "batch_size": 64, "tokens": 64 * 3000, "checkpoint_every_steps": 50}}


def codes(job: Job) -> list[str]:
    return [each.code for each in job.warnings]


@pytest.mark.timeout(900)
def test_a_process_that_stands_still_ends_and_the_next_attempt_has_the_same_bits(
    make_stack: Callable[[], RealStack],
) -> None:
    stack = make_stack()
    stack.start_broker()
    stack.control()
    stack.planted()
    calm = stack.worker()  # it also fills the cache of kernels, whose compilation takes long
    undisturbed = stack.client.jobs.submit(training("calm")).id
    assert stack.wait(undisturbed, seconds=300).state == "SUCCEEDED"
    calm.stop()
    worker = stack.worker(**SETTINGS)
    job = stack.client.jobs.submit(training("disturbed")).id
    stack.wait_for_step(job, 50, seconds=120)
    (process,) = worker.job_processes
    os.kill(process, signal.SIGSTOP)
    until(lambda: "STALLING" in codes(stack.client.jobs.get(job)), 240, "the warning")
    seen = stack.client.jobs.get(job)
    assert seen.state == "RUNNING"
    assert seen.progress.still_seconds > MINIMUM_S
    until(lambda: not alive(process), 240, "the end of the process")
    done = stack.wait(job, seconds=200)
    assert (done.state, done.attempt) == ("SUCCEEDED", 2)
    assert "STALLING" not in codes(done)
    failure = stack.ledger.failure(job, 1)
    assert failure is not None
    assert failure.code == "STALLED"
    events = [each for each in stack.client.jobs.watch(job) if isinstance(each, JobEvent)]
    assert "STALLING" in [each.data.get("code") for each in events]
    assert "STALLED" in [each.data.get("reason") for each in events]
    assert stack.weights("disturbed") == stack.weights("calm")
