"""A superseded attempt changes nothing, whether a later claim or a result took the job from it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.worker_bench import Bench, until

from saeserve.errors import DataError
from saeserve.jobs.errors import Fenced
from saeserve.jobs.record import Output, Result
from saeserve.jobs.states import TERMINAL, JobState
from saeserve.worker import job_process
from saeserve.worker.fence_watch import FenceWatch
from saeserve.worker.order import ExitCode, JobOrder
from saeserve.worker.runners.base import Completed, JobStopped, RunContext
from saeserve.worker.settlement import Ending

Run = Callable[[RunContext], Completed]


def order_of(bench: Bench) -> JobOrder:
    return JobOrder(
        claim=bench.ledger.claim("j-1", "w", 0.0),
        store=bench.ledger.store.root,
        roots={},
        parent=1,
        stop_grace_s=1,
        torch_threads=1,
    )


def end(bench: Bench, state: JobState = JobState.CANCELLED) -> None:
    bench.ledger.finish(Result(job="j-1", epoch=1, state=state, time=0.0))


def claim_again(bench: Bench) -> None:
    bench.ledger.claim("j-1", "other", 0.0)


SUPERSEDE = [claim_again, end]


@pytest.fixture
def play(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], ExitCode]:
    def run(runner: Run) -> ExitCode:
        monkeypatch.setattr(job_process, "runner_of", {"train": runner}.get)
        return job_process.run(order_of(bench), threading.Event())

    bench.submit()
    return run


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_a_result_fences_every_commit(bench: Bench, state: JobState) -> None:
    bench.submit()
    sink = bench.ledger.checkpoint_sink(order_of(bench).lease)
    end(bench, state)
    for act in (sink.check_fence, lambda: sink.commit(1, Path.touch)):
        with pytest.raises(Fenced, match="superseded by the job's committed result"):
            act()
    assert bench.ledger.store.names("jobs/j-1/attempts/1/checkpoints") == []


@pytest.mark.parametrize("supersede", SUPERSEDE)
def test_an_error_of_a_superseded_attempt_is_not_told(
    bench: Bench, play: Callable[[Run], ExitCode], supersede: Callable[[Bench], None]
) -> None:
    def lose_files(context: RunContext) -> Completed:
        supersede(bench)
        raise DataError("is not a file", shard="a.npy", remedy="upload it")

    assert play(lose_files) is ExitCode.FENCED
    assert bench.ledger.failure("j-1", 1) is None


@pytest.mark.parametrize("supersede", SUPERSEDE)
def test_a_superseded_attempt_that_stops_says_so(
    bench: Bench, play: Callable[[Run], ExitCode], supersede: Callable[[Bench], None]
) -> None:
    def stop(context: RunContext) -> Completed:
        supersede(bench)
        raise JobStopped

    assert play(stop) is ExitCode.FENCED


@pytest.mark.parametrize("supersede", SUPERSEDE)
def test_nothing_is_committed_after_it(
    bench: Bench, play: Callable[[Run], ExitCode], supersede: Callable[[Bench], None]
) -> None:
    def complete(context: RunContext) -> Completed:
        supersede(bench)
        return Completed(outputs=(Output(model="models/m/versions/1"),))

    assert play(complete) is ExitCode.FENCED
    result = bench.ledger.result("j-1")
    assert result is None or result.state is JobState.CANCELLED


@pytest.mark.parametrize("supersede", SUPERSEDE)
def test_the_job_process_is_stopped_without_its_worker(
    bench: Bench, supersede: Callable[[Bench], None]
) -> None:
    bench.submit()
    stop = threading.Event()
    with FenceWatch(bench.ledger, order_of(bench).lease, stop.set, look_every_s=0.01):
        assert not stop.wait(0.1)
        supersede(bench)
        assert stop.wait(20)


def test_its_own_result_stops_nobody(bench: Bench) -> None:
    bench.submit()
    stop = threading.Event()
    lease = order_of(bench).lease
    end(bench, JobState.SUCCEEDED)
    with FenceWatch(bench.ledger, lease, stop.set, look_every_s=0.01):
        assert not stop.wait(0.1)


@pytest.mark.parametrize("part", ["fail", "crash", "stopped", "fail-retryable"])
def test_a_superseded_worker_settles_nothing(bench: Bench, part: str) -> None:
    """The worker comes back from a long pause with an attempt that has ended, before it hears
    that another took the job."""
    bench.submit(max_attempts=1)
    claim_after_exit(bench, part)
    assert bench.run() is Ending.FENCED
    assert bench.ledger.result("j-1") is None


def claim_after_exit(bench: Bench, part: str) -> None:
    """The process ends as `part` does, and a later claim stands before the worker looks."""
    bench.part = part
    settled = bench.ledger.failure

    def claimed_meanwhile(job: str, epoch: int) -> object:
        path = bench.ledger.store.path(f"jobs/{job}/attempts/{epoch + 1}/claim.json")
        if not path.exists():
            path.parent.mkdir(parents=True)
            path.write_bytes(
                bench.ledger.store.path(f"jobs/{job}/attempts/{epoch}/claim.json").read_bytes()
            )
        return settled(job, epoch)

    bench.ledger.failure = claimed_meanwhile  # type: ignore[method-assign]


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.FAILED])
def test_without_the_index_a_result_ends_the_attempt(bench: Bench, state: JobState) -> None:
    bench.submit()
    bench.part = "wait"
    running = bench.begin(bench.supervisor)
    bench.index.down = True
    end(bench, state)
    until(lambda: not running.alive)
    assert running.ending() in (Ending.FENCED, Ending(state.lower()))
    assert bench.ledger.result("j-1") == Result(job="j-1", epoch=1, state=state, time=0.0)
