"""A worker whose machine's clock is hours off: its jobs run, move and end as others do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.real_stack import RealStack, Service

HOURS = (-3, 3)
# In every process of the worker. (libfaketime breaks time.sleep, which CPython does by an absolute
# time of the monotonic clock.)
CLOCK = """
import time
wall, wall_ns = time.time, time.time_ns
time.time = lambda: wall() + {hours} * 3600
time.time_ns = lambda: wall_ns() + {hours} * 3600 * 10**9
"""
LONG = 2000


def spec(model: str, steps: int = 100) -> dict[str, Any]:
    fields = {"dataset": "planted", "model": model, "topk": {"k": 4}, "d_sae": 64}
    pace = {"tokens": steps * 64, "batch_size": 64, "checkpoint_every_steps": 50, "eval_rows": 256}
    return {"train": {**fields, **pace}}


@pytest.fixture(scope="module")
def stack(make_stack: Callable[[], RealStack]) -> Iterator[RealStack]:
    made = make_stack()
    made.start_broker()
    made.planted()
    made.control()
    yield made
    assert "Traceback" not in made.logs()


def skewed(stack: RealStack, folder: Path, hours: int) -> Service:
    """A worker on a machine whose clock differs."""
    (folder / "sitecustomize.py").write_text(CLOCK.format(hours=hours))
    stack.environment = {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}
    try:
        return stack.worker()
    finally:
        stack.environment = {}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("hours", HOURS)
def test_a_job_ends_in_one_attempt_and_its_times_are_in_order(
    stack: RealStack, tmp_path: Path, hours: int
) -> None:
    worker = skewed(stack, tmp_path, hours)
    job = stack.wait(stack.client.jobs.submit(spec(f"whole{hours}")).id)
    assert (job.state, job.attempt, job.error) == ("SUCCEEDED", 1, None)
    assert worker.stop() == 0
    assert None not in (job.created, job.started, job.ended)
    times = [moment for moment in (job.created, job.started, job.ended) if moment]
    assert times == sorted(times)
    assert times[-1] - times[0] < timedelta(hours=1)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("hours", HOURS)
def test_its_job_goes_on_where_the_clock_is_another(
    stack: RealStack, tmp_path: Path, hours: int
) -> None:
    worker = skewed(stack, tmp_path, hours)
    job = stack.client.jobs.submit(spec(f"moved{hours}", LONG)).id
    stack.wait_for_step(job, 50)
    worker.kill()
    other = stack.worker()
    ended = stack.wait(job)
    assert (ended.state, ended.attempt) == ("SUCCEEDED", 2)
    assert other.stop() == 0
