"""The store's folder is empty for a while, as when its volume is not mounted: nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.fakes.real_stack import RealStack, until

from saeserve.client.errors import UnavailableError

SCAN_S = 4.0
"""Several rounds of the reconciler, which looks at blocked jobs in each."""


def spec(model: str, steps: int) -> dict[str, Any]:
    fields = {"dataset": "planted", "model": model, "topk": {"k": 4}, "d_sae": 64}
    pace = {"tokens": steps * 64, "batch_size": 64, "checkpoint_every_steps": 50, "eval_rows": 256}
    return {"train": {**fields, **pace}}


def unavailable(call: Callable[[], object]) -> None:
    with pytest.raises(UnavailableError, match="artifact store is not there"):
        call()


@pytest.mark.timeout(900)
def test_jobs_outlive_an_empty_store_and_a_restart_in_it(
    make_stack: Callable[[], RealStack],
) -> None:
    stack = make_stack()
    stack.start_broker()
    stack.planted()
    control = stack.control()
    stack.inference()
    stack.worker()
    client = stack.client
    made = client.jobs.submit(spec("made", 20)).id
    assert stack.wait(made).state == "SUCCEEDED"
    rows = np.zeros((2, 32), np.float32)
    assert len(client.encode("made", rows).offsets) == 3
    running = client.jobs.submit(spec("running", 3000)).id
    queued = client.jobs.submit(spec("queued", 60)).id
    blocked = client.jobs.submit(spec("blocked", 60), waits_for=[running]).id
    stack.wait_for_step(running, 50)

    root = stack.store.root
    away = root.with_name("away")
    root.rename(away)
    root.mkdir()
    for _ in range(2):
        unavailable(lambda: client.jobs.submit(spec("new", 20)))
        unavailable(lambda: client.encode("made", rows))
        unavailable(lambda: client.models.get("made"))
        time.sleep(SCAN_S)
        control.stop()
        control = stack.control()
    live = {job.id: job.state for job in client.jobs.list()}
    assert {live[job] for job in (running, queued, blocked)}.isdisjoint({"FAILED", "CANCELLED"})
    assert not [path for path in root.rglob("*") if path.name in ("job.json", "result.json")]

    stack.worker()  # a second one: the first may have been waiting for long
    kept = root.with_name("kept")
    root.rename(kept)
    away.rename(root)
    for job in (running, queued, blocked):
        assert stack.wait(job, seconds=120).state == "SUCCEEDED"
    until(lambda: len(client.encode("running", rows).offsets) == 3)
    assert "JOB_LOST" not in stack.logs()
