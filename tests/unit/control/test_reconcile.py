"""The reconciler's rounds and the figures made of them."""

from __future__ import annotations

import time

import pytest
from prometheus_client import CollectorRegistry
from tests.fakes.control import Bench

from saeserve.control.metrics import ControlMetrics
from saeserve.control.observer import JobObserver
from saeserve.control.reconcile import ReconcileLoop
from saeserve.jobs.reconciler import Reconciler
from saeserve.jobs.states import JobState
from saeserve.registry.dataset import DatasetState

DONE = {"kind": "train", "state": "SUCCEEDED"}


class Rig:
    def __init__(self, bench: Bench) -> None:
        self.registry = CollectorRegistry()
        figures = ControlMetrics(self.registry)
        reconciler = Reconciler(
            bench.ledger, bench.index, bench.doorbell, publish=bench.parts.publication.apply
        )
        observer = JobObserver(bench.index, figures, bench.parts.jobs.canceller.give_up)
        self.loop = ReconcileLoop(reconciler, observer, figures, 0.01)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def jobs(self, state: str, name: str = "cpu") -> float | None:
        return self.value("saeserve_jobs", **{"state": state, "class": name})

    def of_class(self, name: str, resource_class: str = "cpu") -> float | None:
        return self.value(name, **{"class": resource_class})


@pytest.fixture
def rig(bench: Bench) -> Rig:
    bench.ready()
    return Rig(bench)


def test_jobs_are_counted_by_state_and_class(bench: Bench, rig: Rig) -> None:
    first = bench.train().id
    bench.train()
    bench.start(first)
    rig.loop.once()
    assert rig.jobs("QUEUED") == 1
    assert rig.jobs("RUNNING") == 1
    assert rig.jobs("FAILED") == 0
    assert rig.jobs("QUEUED", "gpu") == 0


def test_an_end_is_counted_once_however_it_was_seen(bench: Bench, rig: Rig) -> None:
    before = bench.train().id
    bench.start(before)
    bench.end(before, JobState.SUCCEEDED)
    watched = bench.train().id
    rig.loop.once()
    bench.start(watched)
    bench.end(watched, JobState.SUCCEEDED)
    between = bench.train().id
    bench.start(between)
    bench.end(between, JobState.SUCCEEDED)
    for _ in range(2):
        rig.loop.once()
    assert rig.value("saeserve_jobs_finished_total", **DONE) == 2
    assert rig.value("saeserve_job_queue_wait_seconds_count") == 2
    seconds = "saeserve_job_duration_seconds_count"
    assert rig.value(seconds, kind="train", outcome="SUCCEEDED") == 2


def test_a_harvest_that_failed_gives_its_data_set_up(bench: Bench, rig: Rig) -> None:
    train = bench.train().id
    spec = {
        "dataset": "made",
        "language_model": {"path": "far:smol"},
        "texts": [{"path": "far:a.txt"}],
        "sites": [{"layer": 3}],
    }
    bench.submit({"harvest": spec}, waits_for=(train,))
    rig.loop.once()
    bench.start(train)
    bench.end(train, JobState.FAILED)
    for _ in range(2):
        rig.loop.once()
    assert bench.datasets.get("made").state is DatasetState.FAILED


def test_a_rebuild_and_a_ring_are_counted(bench: Bench, rig: Rig) -> None:
    bench.train()
    bench.doorbell.answer()
    bench.index.forget()
    rig.loop.once()
    assert rig.value("saeserve_index_rebuilds_total") == 1
    assert rig.value("saeserve_doorbells_republished_total") == 1


def test_an_outage_is_told_once_and_survived(
    bench: Bench, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bench.index.down = True
    for _ in range(3):
        rig.loop.once()
    bench.index.down = False
    rig.loop.once()
    told = [each.message for each in caplog.records if each.name == "saeserve.control.reconcile"]
    assert len([text for text in told if "out of reach" in text]) == 1
    assert len([text for text in told if "back" in text]) == 1


def test_an_unforeseen_error_does_not_end_the_loop(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Reconciler) -> None:
        raise RuntimeError("unforeseen")

    with monkeypatch.context() as patch:
        patch.setattr(Reconciler, "tick", broken)
        rig.loop.once()
    assert "unforeseen" in caplog.text
    rig.loop.once()
    assert rig.jobs("QUEUED") == 0


def test_the_thread_ticks_until_closed(bench: Bench, rig: Rig) -> None:
    record = bench.train()
    bench.index.forget()
    rig.loop.start()
    while not bench.index.ids():
        time.sleep(0.001)
    rig.loop.close()
    assert bench.index.ids() == [record.id]
