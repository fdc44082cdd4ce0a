"""A job in which nothing moves: a warning, then another attempt."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fakes.jobs import submission
from tests.fakes.worker_bench import Bench, until

from saeserve.jobs.events import EVENTS, EventLog
from saeserve.jobs.payloads import MetricsReported
from saeserve.jobs.record import Event, JobRecord, JobWarning, Progress
from saeserve.jobs.states import JobState
from saeserve.worker.event_relay import EventRelay
from saeserve.worker.pace import Pace
from saeserve.worker.report import Report, Scale
from saeserve.worker.settlement import Ending
from saeserve.worker.stall import StallBounds, StallWatch

SHORT = {"stall_minimum_seconds": 0.3, "stall_factor": 0.5, "stop_grace_seconds": 0.3}


def reported(pace: Pace, *moments: tuple[int, float]) -> float:
    for step, moment in moments:
        pace.reported(Event(epoch=1, op=0, time=moment, step=step, payload=MetricsReported()))
    return pace.median_s


def test_the_pace_is_the_median_of_the_intervals() -> None:
    assert Pace().median_s == 0
    assert reported(Pace(), (1, 0.0), (2, 10.0), (3, 1000.0), (4, 1012.0)) == 12


def test_members_that_report_one_step_count_once() -> None:
    assert reported(Pace(), (1, 0.0), (1, 0.1), (1, 0.2), (2, 50.0), (2, 50.1), (3, 100.0)) == 50


@pytest.mark.parametrize(
    ("interval", "alive", "bound"),
    [(0, True, 100), (5, True, 100), (20, True, 200), (0, False, 100), (20, False, 200)],
)
def test_the_bound_is_the_larger_of_the_two(interval: float, alive: bool, bound: float) -> None:
    assert StallBounds(10, 100).bound_s(interval, alive=alive) == bound


def test_a_process_that_loads_has_a_minute_at_least() -> None:
    assert StallBounds(10, 1).bound_s(0, alive=False) == 60
    assert StallBounds(10, 1).bound_s(0, alive=True) == 1


class World:
    """A watch over a file of events, with a clock of one's own."""

    def __init__(self, bench: Bench) -> None:
        bench.submit()
        self.bench, self.now = bench, 0.0
        claim = bench.ledger.claim("j-1", "w", 0.0)
        self.folder = bench.folder("j-1", claim.epoch)
        self.log = EventLog(self.folder / EVENTS, claim.epoch)
        self.report = Report(self.log)
        job = submission(kind="train")
        self.relay = EventRelay(self.folder / EVENTS, job, 40, bench.index, bench.metrics)
        bounds = StallBounds(10, 100)
        self.watch = StallWatch(
            self.folder, claim.epoch, bounds, self.relay, bench.metrics, lambda: self.now
        )
        self.report.attempt_started(40)
        self.watch.look()

    def wait(self, seconds: int, sign: Callable[[], object] = lambda: None) -> None:
        """Look each second, after `sign`."""
        for _ in range(seconds):
            self.now += 1
            sign()
            self.watch.look()
        self.relay.forward()

    def warnings(self) -> list[str]:
        events = [each.event for each in self.bench.index.events("j-1", 0, 1000)]
        return [each.data["code"] for each in events if each.type == "warning"]

    def still(self) -> float | None:
        return self.bench.registry.get_sample_value("saeserve_worker_still_seconds")

    def sign(self) -> None:
        """As `Report.moved`, without its pause of a second."""
        path = self.folder / EVENTS
        later = path.stat().st_mtime_ns + 10**9
        os.utime(path, ns=(later, later))


@pytest.fixture
def world(bench: Bench) -> Iterator[World]:
    made = World(bench)
    with made.report:
        yield made


def test_nothing_moves_a_warning_comes_and_then_the_end(world: World) -> None:
    world.wait(100)
    assert (world.warnings(), world.watch.over.is_set()) == ([], False)
    assert world.still() == 100
    world.wait(100)
    assert (world.warnings(), world.watch.over.is_set()) == (["STALLING"], False)
    progress = world.relay.progress
    assert progress is not None
    assert (progress.step, progress.still_seconds) == (40, 200)
    world.wait(1)
    assert world.watch.over.is_set()
    assert world.bench.registry.get_sample_value(
        "saeserve_job_warnings_total", {"code": "STALLING"}
    )


def test_one_that_moves_again_goes_on_and_is_warned_of_anew(world: World) -> None:
    world.wait(150)
    world.report.warning(41, "OWN", "the job's own events go on by their numbers")
    world.wait(100)
    assert world.still() == 99
    progress = world.relay.progress
    assert progress is not None
    assert progress.still_seconds == 0
    world.wait(50)
    assert not world.watch.over.is_set()
    assert world.warnings() == ["STALLING", "OWN", "STALLING"]
    written = [(each.op, each.type) for each in world.bench.ledger.history("j-1")]
    assert sorted(written) == [
        (-3, "warning"),
        (-2, "warning"),
        (0, "attempt_started"),
        (1, "warning"),
    ]
    assert [each.op for each in world.bench.ledger.events("j-1")] == [0, 1]


def test_signs_of_life_are_enough(world: World) -> None:
    world.wait(500, world.sign)
    assert (world.warnings(), world.watch.over.is_set()) == ([], False)


def test_a_job_that_reports_rarely_has_ten_times_its_interval(world: World) -> None:
    for step in range(3):
        payload = MetricsReported(total_steps=9)
        world.log.append(payload, step=step)
        world.relay.pace.reported(
            Event(epoch=1, op=0, time=step * 60.0, step=step, payload=payload)
        )
    world.watch.look()
    world.wait(600)
    assert world.warnings() == []
    world.wait(1)
    assert world.warnings() == ["STALLING"]


def test_time_in_which_the_worker_itself_was_paused_does_not_count(world: World) -> None:
    world.wait(10)
    world.now += 10_000
    world.watch.look()
    assert world.watch.still_s < 20


class Store:
    """Of a `World`; it can go away, as a volume that is unmounted, and come back."""

    def __init__(self, world: World) -> None:
        self.root = world.bench.ledger.store.root
        self.aside = self.root.with_name("unmounted")

    def leave(self) -> None:
        self.root.rename(self.aside)
        self.root.mkdir()

    def come_back(self) -> None:
        self.root.rmdir()
        self.aside.rename(self.root)


def watch_without_store(world: World, seconds: int) -> None:
    """Each second a look that finds no store."""
    for _ in range(seconds):
        world.now += 1
        with pytest.raises(OSError, match="No such file"):
            world.watch.look()


def test_a_store_that_is_away_says_nothing_about_the_job(world: World) -> None:
    store = Store(world)
    world.wait(90)
    store.leave()
    watch_without_store(world, 1000)
    assert (world.watch.still_s, world.watch.over.is_set()) == (90, False)
    assert list(store.root.iterdir()) == []
    store.come_back()
    world.wait(10)
    assert world.warnings() == []
    world.wait(1)
    assert world.warnings() == ["STALLING"]
    store.leave()
    watch_without_store(world, 1000)
    assert not world.watch.over.is_set()
    store.come_back()
    world.wait(100)
    assert world.watch.over.is_set()


def test_a_store_that_cannot_be_written_takes_no_signs_of_life(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", refuse)
        for _ in range(1000):
            world.now += 1
            with pytest.raises(OSError, match="Read-only"):
                world.watch.look()
    world.wait(100)
    assert (world.warnings(), world.watch.over.is_set()) == ([], False)


def test_the_thread_says_once_that_the_store_is_away_and_looks_on(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> int:
        return caplog.text.count("whether it moves is not seen")

    bounds = StallBounds(10, 0.05)
    folder, bench = world.folder, world.bench
    with StallWatch(folder, 1, bounds, world.relay, bench.metrics) as watch:
        store = Store(world)
        store.leave()
        until(lambda: said() == 1)
        still_s = watch.still_s
        time.sleep(0.3)  # some thirty looks
        assert (said(), watch.still_s) == (1, still_s)
        store.come_back()
        until(lambda: watch.still_s > still_s)


def test_the_report_signs_at_most_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched: list[int] = []

    def touch(_: EventLog) -> None:
        touched.append(1)

    monkeypatch.setattr(EventLog, "touch", touch)
    with Report(EventLog(tmp_path / EVENTS, 1)) as report:
        for _ in range(1000):
            report.moved()
    assert len(touched) == 1


def test_a_sign_changes_the_files_time_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / EVENTS
    with Report(EventLog(path, 1)) as report:
        report.metrics(1, {}, Scale("rows", 2))
        os.utime(path, (1.0, 1.0))
        before = path.read_bytes()
        report.moved()
    assert path.stat().st_mtime > 1.0
    assert path.read_bytes() == before


def short(bench: Bench) -> None:
    bench.settings = bench.settings.model_copy(update=SHORT)


def test_a_process_that_stands_still_is_killed_and_its_job_tried_again(bench: Bench) -> None:
    short(bench)
    bench.submit()
    bench.part = "stand-still"
    assert bench.run() is Ending.RETRIED
    record = bench.index.get("j-1")
    assert record is not None
    assert (record.state, record.reason) == (JobState.QUEUED, "STALLED")
    failure = bench.ledger.failure("j-1", 1)
    assert failure is not None
    assert (failure.code, failure.step, failure.retryable) == ("STALLED", 2, True)
    ops = [each.op for each in bench.ledger.events("j-1")]
    assert ops == list(range(len(ops)))
    assert [each.op for each in bench.ledger.history("j-1") if each.by_worker] == [-2]
    told = [each.event for each in bench.index.events("j-1", 0, 100)]
    assert [each.data["code"] for each in told if each.type == "warning"] == ["STALLING"]
    bench.part = "finish"
    assert bench.run() is Ending.SUCCEEDED


def test_of_what_a_killed_process_was_writing_no_temporary_stays(bench: Bench) -> None:
    short(bench)
    bench.submit()
    bench.part = "half-written"
    assert bench.run() is Ending.RETRIED
    checkpoint = bench.folder("j-1", 1) / "checkpoints" / "50"
    assert [each.name for each in checkpoint.iterdir()] == ["model.safetensors"]


def test_one_that_stalls_while_the_index_is_away_is_tried_again_once_its_lease_has_run_out(
    bench: Bench,
) -> None:
    short(bench)
    bench.submit()
    bench.part = "stand-still"
    record = bench.index.acquire("cpu", "w", bench.settings.lease_seconds)
    assert record is not None
    bench.index.down = True
    assert bench.supervisor.run(record, "w") is Ending.RETRIED
    failure = bench.ledger.failure("j-1", 1)
    assert failure is not None
    assert failure.code == "STALLED"
    bench.index.down = False
    bench.index.expire(bench.index.leases())
    bench.part = "finish"
    assert bench.run() is Ending.SUCCEEDED
    events = [each.event for each in bench.index.events("j-1", 0, 100)]
    assert [each.data["code"] for each in events if each.type == "warning"] == ["STALLING"]


def test_a_watch_that_cannot_be_made_leaves_no_process(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(_: StallWatch) -> int:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(StallWatch, "_mark_now", stale)
    bench.submit()
    with pytest.raises(OSError, match="Stale"):
        bench.run()
    assert bench.started == []


def test_used_up_attempts_fail_as_stalled(bench: Bench) -> None:
    short(bench)
    bench.submit(max_attempts=1)
    bench.part = "stand-still"
    assert bench.run() is Ending.FAILED
    result = bench.ledger.result("j-1")
    assert result is not None
    assert result.failure is not None
    assert result.failure.code == "STALLED"


def test_a_slow_job_that_gives_signs_of_life_is_left_alone(bench: Bench) -> None:
    short(bench)
    bench.submit()
    bench.part = "slow"
    assert bench.run() is Ending.SUCCEEDED
    assert [each for each in bench.ledger.events("j-1") if each.type == "warning"] == []


def test_a_record_warns_while_its_job_stands_still() -> None:
    still = JobRecord(
        submission=submission(), state=JobState.RUNNING, progress=Progress(still_seconds=700)
    )
    assert still.warnings == (JobWarning(code="STALLING", message="nothing has moved for 700 s"),)
    assert still.model_copy(update={"state": JobState.QUEUED}).warnings == ()
