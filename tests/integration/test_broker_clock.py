"""A real broker whose wall clock steps (libfaketime): leases and leadership do not notice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from tests.fakes.jobs import CountingDoorbell, lease_of, submission
from tests.fakes.valkey import Valkey, ask

from saeserve.jobs.ledger import Ledger
from saeserve.jobs.reconciler import Pace, Reconciler
from saeserve.jobs.record import Beat, JobRecord, Lease
from saeserve.jobs.redis_index import RedisIndex
from saeserve.jobs.states import JobState
from saeserve.platform.store import ArtifactStore

TTL_S = 2.0
LIBRARY = next(Path("/usr/lib").rglob("faketime/libfaketime.so.1"), None)
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed")


@dataclass
class Fixture:
    """A reconciler on a broker whose clock `step` moves."""

    clock: Path
    server: Valkey
    index: RedisIndex
    ledger: Ledger
    reconciler: Reconciler

    def step(self, seconds: int) -> None:
        before = self._server_seconds()
        self.clock.write_text(f"{seconds:+d}")
        assert abs(self._server_seconds() - before - seconds) < 60

    def _server_seconds(self) -> int:
        with self.server.client() as client:
            return int(cast("tuple[int, int]", ask(client, "TIME"))[0])

    def begin(self) -> Lease:
        """A job that runs."""
        job = self.ledger.submit(submission())
        self.index.put(JobRecord(submission=job, state=JobState.QUEUED))
        claim = self.ledger.claim(job.id, "A", 0.0)
        lease = lease_of(self.index.acquire("cpu", "A", TTL_S), claim.epoch)
        assert self.index.start(lease, charged=True)
        return lease

    def ticks(self, seconds: float, lease: Lease | None) -> float | None:
        """Tick, and beat for `lease` when given; the second in which a lease was taken back."""
        began = time.monotonic()
        while (elapsed := time.monotonic() - began) < seconds:
            if lease is not None:
                assert self.index.beat(lease, TTL_S, None) is Beat.OK
            if self.reconciler.tick().expired:
                return elapsed
            time.sleep(0.1)
        return None


@pytest.fixture
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fixture]:
    folder = tmp_path_factory.mktemp("c")
    clock = folder / "offset"
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    store = ArtifactStore(folder / "store")
    store.check()
    with Valkey(folder, environment) as server, server.client() as client:
        index, ledger = RedisIndex(client), Ledger(store)
        pace = Pace(lease_ttl_s=TTL_S, tick_every_s=0.5)
        made = Reconciler(ledger, index, CountingDoorbell(), publish=lambda _: None, pace=pace)
        yield Fixture(clock, server, index, ledger, made)


@pytest.mark.parametrize("seconds", [600, -600])
def test_no_attempt_is_fenced(stepped: Fixture, seconds: int) -> None:
    lease = stepped.begin()
    assert stepped.ticks(0.5, lease) is None
    stepped.step(seconds)
    assert stepped.ticks(2 * TTL_S, lease) is None


@pytest.mark.parametrize("seconds", [600, -600])
def test_a_dead_workers_job_is_taken_back_in_time(stepped: Fixture, seconds: int) -> None:
    lease = stepped.begin()
    assert stepped.ticks(0.5, lease) is None
    stepped.step(seconds)
    taken = stepped.ticks(20 * TTL_S, None)
    assert taken is not None
    assert taken > TTL_S / 2
