"""A job that is killed where kernels are compiled ends with equal bits where they are loaded."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.real_stack import RealStack, Service

pytestmark = pytest.mark.timeout(1800)
STEPS, EVERY = 400, 40
MINUTES = 900.0
"""Seconds for a job that has its kernels to compile."""


def spec(model: str) -> dict[str, Any]:
    """Each latent fires on an eighth of the rows, so that sums are long enough to differ."""
    return {
        "train": {
            "dataset": "planted",
            "model": model,
            "topk": {"k": 8},
            "d_sae": 64,
            "tokens": STEPS * 512,
            "batch_size": 512,
            "checkpoint_every_steps": EVERY,
            "log_every_steps": 20,
            "eval_rows": 256,
        }
    }


@pytest.fixture(scope="module")
def base(make_stack: Callable[[], RealStack]) -> RealStack:
    """Broker and control; the test starts its own workers."""
    made = make_stack()
    made.start_broker()
    made.planted(d=67)
    made.control()
    return made


def worker(base: RealStack, cache: Path) -> Service:
    """A worker whose kernels are kept in `cache`. A process that waited for jobs would compile
    those of every architecture meanwhile."""
    base.environment["NUMBA_CACHE_DIR"] = str(cache)
    return base.worker(standby="false")


def weights(base: RealStack, job: str) -> bytes:
    ended = base.wait(job, seconds=MINUTES)
    assert (ended.state, ended.error) == ("SUCCEEDED", None)
    return base.weights(ended.outputs[0].model)


def test_killed_with_a_cold_cache(base: RealStack, tmp_path: Path) -> None:
    """The undisturbed job loads all of its kernels, which the other's first steps compiled."""
    first = worker(base, tmp_path / "cold")
    job = base.client.jobs.submit(spec("killed")).id
    base.wait_for_step(job, EVERY, seconds=MINUTES)
    (process,) = first.job_processes
    os.kill(process, signal.SIGKILL)
    first.kill()
    assert 0 < base.checkpoint(job) < STEPS
    assert list((tmp_path / "cold").rglob("*.nbc"))

    worker(base, tmp_path / "cold")
    killed = weights(base, job)
    assert base.ledger.highest_epoch(job) == 2
    assert killed == weights(base, base.client.jobs.submit(spec("undisturbed")).id)
