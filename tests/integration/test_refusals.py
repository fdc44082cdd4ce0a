"""A broker that answers, but refuses writes for some seconds: nobody ends, and work goes on."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.fakes.real_stack import RealStack
from tests.fakes.valkey import ask

from saeserve.platform.redis import connect

REFUSED_S = 3.0
"""Longer than a BRPOP of the workers waits, so that every one of them hears the refusal."""

REFUSALS = {
    "noreplicas": ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    # What a failover makes of the old primary. Nothing listens at the port, so no data change.
    "readonly": ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    "maxmemory": ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
}
"""How refusing begins and ends."""


def train(model: str) -> dict[str, Any]:
    fields = {"dataset": "planted", "model": model, "topk": {"k": 4}, "d_sae": 64}
    return {"train": {**fields, "tokens": 64 * 100, "batch_size": 64, "eval_rows": 64}}


@pytest.fixture(scope="module")
def small(stack: RealStack) -> RealStack:
    """A whole stack with a data set."""
    stack.planted()
    return stack


@pytest.mark.parametrize("kind", REFUSALS)
def test_workers_outlive_refused_writes_and_take_the_next_job(small: RealStack, kind: str) -> None:
    refuse, allow = REFUSALS[kind]
    with connect(small.broker.url) as redis:
        ask(redis, *refuse.split())
        try:
            time.sleep(REFUSED_S)
            during = small.client.jobs.submit(train(f"{kind}-during")).id
        finally:
            ask(redis, *allow.split())
    after = small.client.jobs.submit(train(f"{kind}-after")).id
    assert small.wait(during).state == "SUCCEEDED"
    assert small.wait(after).state == "SUCCEEDED"
    assert [s.process.poll() for s in small.services] == [None, None]
