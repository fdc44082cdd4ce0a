"""Rings, and what the worker takes on one."""

from __future__ import annotations

import errno
import threading

import pytest
from tests.fakes.worker_bench import Bench, until

from saeserve.jobs.doorbell import RING, celery_app
from saeserve.jobs.record import Claim
from saeserve.platform.store_errors import disk_full, read_only
from saeserve.worker.backoff import Backoff
from saeserve.worker.task import JobTaker, register


def taker(bench: Bench) -> JobTaker:
    return JobTaker(bench.index, bench.supervisor, 60, bench.drain, backoff=Backoff(0.0))


def test_one_ring_takes_every_job_of_its_class(bench: Bench) -> None:
    for job, resource_class in (("j-1", "cpu"), ("j-2", "gpu"), ("j-3", "cpu")):
        bench.submit(job, resource_class=resource_class)
    assert taker(bench).take("cpu") == 2
    states = [bench.state(job) for job in ("j-1", "j-2", "j-3")]
    assert states == ["SUCCEEDED", "QUEUED", "SUCCEEDED"]


def test_a_worker_that_lost_its_device_gives_the_job_back_and_takes_no_more(bench: Bench) -> None:
    bench.part = "unfit"
    bench.submit("j-1", resource_class="cpu", max_attempts=1)
    bench.submit("j-2", resource_class="cpu")
    ended: list[str] = []
    losing = JobTaker(bench.index, bench.supervisor, 60, bench.drain, lambda: ended.append("now"))
    assert losing.take("cpu") == 1
    assert losing.take("cpu") == 0
    assert (ended, bench.started) == (["now"], [1])
    assert [bench.state(job) for job in ("j-1", "j-2")] == ["QUEUED", "QUEUED"]
    assert bench.ledger.result("j-1") is None
    bench.part = "finish"
    assert taker(bench).take("cpu") == 2
    assert bench.state("j-1") == "SUCCEEDED"


def test_a_draining_worker_takes_nothing(bench: Bench) -> None:
    bench.submit()
    bench.drain.set()
    assert taker(bench).take("cpu") == 0
    assert bench.state() == "QUEUED"


def test_without_the_index_a_ring_ends_quietly(bench: Bench) -> None:
    bench.submit()
    bench.index.down = True
    assert taker(bench).take("cpu") == 0


def test_a_failing_store_ends_the_ring_and_gives_the_job_back(bench: Bench) -> None:
    bench.submit()
    folder = bench.ledger.store.path("jobs/j-1")
    folder.joinpath("attempts").write_text("in the way")
    assert taker(bench).take("cpu") == 0
    assert bench.state() == "QUEUED"
    assert bench.started == []


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_a_machine_without_room_gives_the_job_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> Claim:
        raise error

    bench.submit()
    monkeypatch.setattr(bench.ledger, "claim", fail)
    assert taker(bench).take("cpu") == 0
    assert bench.state() == "QUEUED"


@pytest.mark.parametrize(
    ("error", "reason", "traces"),
    [
        (disk_full(), "DISK_FULL", 0),
        (OSError(errno.ENOSPC, "No space left on device"), "DISK_FULL", 0),
        (read_only(), "STORE_UNAVAILABLE", 0),
        (MemoryError(), "OOM_HOST", 1),
        (OSError(errno.EIO, "Input/output error"), "WORKER_FAILED", 1),
        (RuntimeError("a bug"), "WORKER_FAILED", 1),
    ],
    ids=str,
)
def test_a_job_that_is_given_back_says_why(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    reason: str,
    traces: int,
) -> None:
    """A full disk is no riddle: one line in the log, and its code at the job."""

    def fail(*_: object) -> Claim:
        raise error

    bench.submit()
    monkeypatch.setattr(bench.ledger, "claim", fail)
    assert taker(bench).take("cpu") == 0
    record = bench.index.get("j-1")
    assert record is not None
    assert (record.state, record.reason) == ("QUEUED", reason)
    assert len([each for each in caplog.records if each.exc_info]) == traces
    assert "given back" in caplog.text


def test_the_worker_lives_on_after_a_job_that_fails(bench: Bench) -> None:
    bench.part = "crash"
    bench.submit("j-1", max_attempts=2)
    assert taker(bench).take("cpu") == 2
    assert bench.state() == "FAILED"
    bench.part = "finish"
    bench.submit("j-2")
    assert taker(bench).take("cpu") == 1
    assert bench.state("j-2") == "SUCCEEDED"


def test_the_celery_task_takes_jobs(bench: Bench) -> None:
    bench.submit()
    app = celery_app("redis://nowhere")
    register(app, taker(bench))
    app.tasks[RING].apply(("cpu",))
    assert bench.state() == "SUCCEEDED"


def test_a_failing_store_is_left_alone_for_ever_longer() -> None:
    backoff = Backoff(5.0, longest_s=60.0)
    assert [backoff.failed() for _ in range(6)] == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    backoff.succeeded()
    assert backoff.failed() == 5.0


def test_a_failing_store_fills_no_jobs_events(bench: Bench) -> None:
    """Rung all the time, the worker takes the job once, until the pause is over."""
    bench.submit()
    attempts = bench.ledger.store.path("jobs/j-1/attempts")
    attempts.write_text("in the way")
    patient = JobTaker(bench.index, bench.supervisor, 60, bench.drain, backoff=Backoff(3600.0))
    thread = threading.Thread(target=patient.take, args=("cpu",))
    thread.start()
    until(lambda: len(bench.index.events("j-1", 0, 100)) == 3)
    attempts.unlink()
    # Another worker, which reaches the store, has it at once.
    assert taker(bench).take("cpu") == 1
    assert thread.is_alive()
    bench.drain.set()
    thread.join(30)
    assert not thread.is_alive()
    assert bench.state() == "SUCCEEDED"
