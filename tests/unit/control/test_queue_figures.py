"""What control tells of the queue, the workers, and what it depends on."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.fakes.control import Bench

from saeserve.control.metrics import EXPECTED_FAILURES, ControlMetrics
from saeserve.control.observer import JobObserver
from saeserve.control.reconcile import ReconcileLoop
from saeserve.control.telemetry import RedisFigures, Telemetry, TelemetryMetrics, redis_figures
from saeserve.core.planning.machine import Machine
from saeserve.errors import Unavailable
from saeserve.jobs.reconciler import Reconciler
from saeserve.jobs.record import Failure
from saeserve.jobs.states import JobState
from saeserve.platform.store import ArtifactStore, read_only

HEALTHY = RedisFigures(used_memory_bytes=7, max_memory_bytes=0, persistence_ok=True)
OLDEST = "saeserve_oldest_queued_job_age_seconds"


class Rig:
    """A reconciler's loop with every figure, and a clock of its own."""

    def __init__(self, bench: Bench, store: ArtifactStore) -> None:
        self.registry = CollectorRegistry()
        self.later = 0.0
        self.redis: RedisFigures | Exception = HEALTHY
        self.bench = bench
        figures = ControlMetrics(self.registry)
        reconciler = Reconciler(
            bench.ledger, bench.index, bench.doorbell, publish=bench.parts.publication.apply
        )
        give_up = bench.parts.jobs.canceller.give_up
        observer = JobObserver(bench.index, figures, give_up, self.now)
        self.telemetry = Telemetry(
            store, self._ask, TelemetryMetrics(self.registry), lambda: self.later
        )
        self.loop = ReconcileLoop(reconciler, observer, figures, 0.01, telemetry=self.telemetry)

    def now(self) -> float:
        jobs = [self.bench.index.get(job) for job in self.bench.index.ids()]
        first = min((job.submission.created for job in jobs if job), default=0.0)
        return first + self.later

    def look(self) -> None:
        self.later += 60
        self.telemetry.look()

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def of_class(self, name: str, resource_class: str = "cpu") -> float | None:
        return self.value(name, **{"class": resource_class})

    def _ask(self) -> RedisFigures:
        if isinstance(self.redis, Exception):
            raise self.redis
        return self.redis


@pytest.fixture
def rig(bench: Bench, tmp_path: Path) -> Rig:
    bench.ready()
    (tmp_path / "disk").mkdir()
    return Rig(bench, ArtifactStore(tmp_path / "disk"))


def test_counters_stand_at_0_before_the_first_event(rig: Rig) -> None:
    assert rig.value("saeserve_jobs_finished_total", kind="train", state="FAILED") == 0
    for code in EXPECTED_FAILURES:
        assert rig.value("saeserve_job_failures_total", code=code) == 0
    assert rig.value("saeserve_store_errors_total", reason="STORE_UNAVAILABLE") == 0


def test_the_oldest_queued_job_has_an_age(bench: Bench, rig: Rig) -> None:
    first = bench.train().id
    bench.train()
    rig.later = 90.0
    rig.loop.once()
    assert rig.of_class(OLDEST) == 90.0
    assert rig.of_class(OLDEST, "gpu") == 0
    bench.start(first)
    rig.loop.once()
    age = rig.of_class(OLDEST)
    assert age is not None
    assert 0 < age <= 90.0


def test_a_job_that_comes_back_waits_anew(bench: Bench, rig: Rig) -> None:
    job = bench.train().id
    bench.start(job)
    rig.loop.once()
    [held] = bench.index.leases()
    bench.index.expire([held])
    rig.later = 500.0
    rig.loop.once()
    assert rig.of_class(OLDEST) == 0
    rig.later = 530.0
    rig.loop.once()
    assert rig.of_class(OLDEST) == 30.0


def test_an_empty_queue_has_the_age_0(rig: Rig) -> None:
    rig.loop.once()
    assert rig.of_class(OLDEST) == 0


def test_live_workers_are_counted_by_class(bench: Bench, rig: Rig) -> None:
    machine = Machine(kind="a processor", memory_bytes=1)
    bench.index.announce("cpu", "one", machine, 60.0)
    bench.index.announce("cpu", "two", machine, 60.0)
    rig.loop.once()
    assert rig.of_class("saeserve_workers") == 2
    assert rig.of_class("saeserve_workers", "gpu") == 0


def test_failures_are_counted_by_code(bench: Bench, rig: Rig) -> None:
    job = bench.train().id
    bench.start(job)
    rig.loop.once()
    failure = Failure(code="OOM_HOST", message="the host ran out of memory")
    bench.index.finish(job, 1, JobState.FAILED, (), failure)
    rig.loop.once()
    assert rig.value("saeserve_job_failures_total", code="OOM_HOST") == 1
    assert rig.value("saeserve_job_failures_total", code="OOM_GPU") == 0


def test_the_age_of_the_last_round_grows_while_rounds_fail(bench: Bench, rig: Rig) -> None:
    rig.loop.once()
    name = "saeserve_reconciler_last_round_age_seconds"
    first = rig.value(name)
    bench.index.down = True
    rig.loop.once()
    second = rig.value(name)
    assert first is not None
    assert second is not None
    assert 0 <= first < second


def test_a_follower_tells_nothing_of_the_queue(bench: Bench, rig: Rig) -> None:
    bench.train()
    rig.loop.once()
    assert rig.value("saeserve_reconciler_leading") == 1
    bench.index.forget()
    bench.index.lead("reconciler", "another")
    rig.loop.once()
    assert rig.value("saeserve_reconciler_leading") == 0
    assert rig.of_class(OLDEST) is None
    assert rig.of_class("saeserve_workers") is None


def test_the_disk_of_the_store_is_told(rig: Rig) -> None:
    rig.look()
    free, size = rig.value("saeserve_store_free_bytes"), rig.value("saeserve_store_size_bytes")
    assert free is not None
    assert size is not None
    assert 0 < free <= size


def test_a_store_that_is_gone_is_an_error(rig: Rig, tmp_path: Path) -> None:
    rig.loop.once()
    assert rig.value("saeserve_store_up") == 1
    (tmp_path / "disk").rmdir()
    rig.look()
    assert rig.value("saeserve_store_up") == 0
    assert rig.value("saeserve_store_errors_total", reason="STORE_UNAVAILABLE") == 1


def test_a_store_that_can_only_be_read_wakes_somebody_also_while_rounds_succeed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: ArtifactStore) -> None:
        raise read_only()

    with monkeypatch.context() as patch:
        patch.setattr(ArtifactStore, "check_writable", refuse)
        rig.look()
        rig.telemetry.note_store(None)
        assert rig.value("saeserve_store_up") == 0
        assert rig.value("saeserve_store_errors_total", reason="STORE_UNAVAILABLE") == 1
    rig.look()
    rig.telemetry.note_store(None)
    assert rig.value("saeserve_store_up") == 1


def test_redis_is_watched(rig: Rig) -> None:
    rig.look()
    assert rig.value("saeserve_redis_up") == 1
    assert rig.value("saeserve_redis_memory_used_bytes") == 7
    assert rig.value("saeserve_redis_persistence_ok") == 1
    rig.redis = Unavailable("away", code="REDIS_UNAVAILABLE")
    rig.look()
    assert rig.value("saeserve_redis_up") == 0


@pytest.mark.parametrize(
    ("info", "ok"),
    [
        ({"used_memory": 5, "maxmemory": 9}, True),
        ({"used_memory": 5, "aof_last_write_status": "ok"}, True),
        ({"used_memory": 5, "aof_last_write_status": "err"}, False),
        ({"used_memory": 5, "aof_last_bgrewrite_status": "err"}, False),
        ({}, True),
    ],
)
def test_persistence_fails_when_the_server_says_so(info: dict[str, object], ok: bool) -> None:
    assert redis_figures(info).persistence_ok is ok
