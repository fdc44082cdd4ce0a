"""How a job process ends, with runners that play parts."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fakes.worker_bench import Bench

from saeserve.errors import DataError, Unavailable
from saeserve.jobs.events import tail
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.record import Output
from saeserve.jobs.states import JobState
from saeserve.worker import job_process
from saeserve.worker.order import ExitCode, JobOrder, command
from saeserve.worker.report import Report
from saeserve.worker.runners.base import Completed, JobStopped, RunContext, runner_of

Run = Callable[[RunContext], Completed]


def order_of(bench: Bench, owner: str = "w") -> JobOrder:
    return JobOrder(
        claim=bench.ledger.claim("j-1", owner, 0.0),
        store=bench.ledger.store.root,
        roots={},
        parent=1,
        stop_grace_s=1,
        torch_threads=1,
    )


@pytest.fixture
def play(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], ExitCode]:
    def run(runner: Run) -> ExitCode:
        def chosen(kind: str) -> Run:
            assert kind == "train"
            return runner

        monkeypatch.setattr(job_process, "runner_of", chosen)
        return job_process.run(order_of(bench), threading.Event())

    bench.submit()
    return run


def complete(context: RunContext) -> Completed:
    return Completed(outputs=(Output(model="models/m/versions/1"),), steps=9)


def test_what_a_runner_made_is_committed(bench: Bench, play: Callable[[Run], ExitCode]) -> None:
    assert play(complete) is ExitCode.FINISHED
    result = bench.ledger.result("j-1")
    assert result is not None
    assert (result.state, result.epoch, result.steps) == (JobState.SUCCEEDED, 1, 9)
    assert result.outputs[0].model == "models/m/versions/1"


@pytest.mark.parametrize("also_the_reason", [False, True])
@pytest.mark.parametrize("at", ["open", "write"])
def test_a_disk_without_room_for_events_is_told_as_full(
    bench: Bench,
    play: Callable[[Run], ExitCode],
    monkeypatch: pytest.MonkeyPatch,
    at: str,
    also_the_reason: bool,
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def no_room(*_: object) -> bool:
        raise Unavailable("full", code="DISK_FULL")

    if at == "open":
        monkeypatch.setattr(Report, "open", full)
    else:
        monkeypatch.setattr("saeserve.jobs.events.write_some", full)
    if also_the_reason:
        monkeypatch.setattr(Ledger, "write_failure", no_room)
        assert play(complete) is ExitCode.DISK_FULL
        return
    assert play(complete) is ExitCode.FAILED
    failure = bench.ledger.failure("j-1", 1)
    assert failure is not None
    assert (failure.code, failure.retryable) == ("DISK_FULL", True)


def test_an_error_is_left_in_the_store(bench: Bench, play: Callable[[Run], ExitCode]) -> None:
    def fail(context: RunContext) -> Completed:
        context.report.log("so far so good")
        context.report.step = 12
        raise DataError("is NaN", shard="a.npy", row=3, remedy="mend it")

    assert play(fail) is ExitCode.FAILED
    failure = bench.ledger.failure("j-1", 1)
    assert failure is not None
    assert (failure.code, failure.step, failure.remedy) == ("BAD_DATA", 12, "mend it")
    assert "a.npy, row 3" in failure.message
    assert bench.ledger.result("j-1") is None


def test_a_stopped_runner_commits_no_result(bench: Bench, play: Callable[[Run], ExitCode]) -> None:
    def stop(context: RunContext) -> Completed:
        raise JobStopped

    assert play(stop) is ExitCode.STOPPED
    assert bench.ledger.result("j-1") is None


def test_a_superseded_attempt_commits_nothing(
    bench: Bench, play: Callable[[Run], ExitCode]
) -> None:
    def slow(context: RunContext) -> Completed:
        bench.ledger.claim("j-1", "other", 0.0)
        return complete(context)

    assert play(slow) is ExitCode.FENCED
    assert bench.ledger.result("j-1") is None


def test_an_attempt_begins_by_saying_where_from_and_what_was_damaged(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit()
    first = order_of(bench)
    sink = bench.ledger.checkpoint_sink(first.lease)
    for step in (5, 10):
        sink.commit(step, lambda folder: write(folder / "state", "whole"))
    write(bench.folder("j-1", 1) / "checkpoints/10/state", "damaged")
    monkeypatch.setattr(job_process, "runner_of", {"train": complete}.get)
    job_process.run(order_of(bench), threading.Event())
    events = tail(bench.folder("j-1", 2) / "events.jsonl")
    assert (events[0].type, events[0].data) == ("attempt_started", {"resume_step": 5})
    assert (events[1].type, events[1].data["code"]) == ("warning", "CKPT_CORRUPT")


def write(path: Path, text: str) -> None:
    path.write_text(text)


def test_the_order_survives_the_command_line(bench: Bench) -> None:
    bench.submit()
    order = order_of(bench)
    assert JobOrder.model_validate_json(command(order)[-1]) == order


@pytest.mark.parametrize("kind", ["train", "harvest", "ingest", "evaluate"])
def test_every_kind_has_a_runner(kind: str) -> None:
    assert callable(runner_of(kind))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("CUDA error: out of memory"), "OOM_GPU"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), "OOM_GPU"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "OOM_HOST"),
        (MemoryError(), "OOM_HOST"),
    ],
)
def test_memory_that_ran_out_has_its_code(
    bench: Bench, play: Callable[[Run], ExitCode], error: Exception, code: str
) -> None:
    def fail(_context: RunContext) -> Completed:
        raise error

    assert play(fail) is ExitCode.FAILED
    failure = bench.ledger.failure("j-1", 1)
    assert failure is not None
    assert (failure.code, failure.retryable) == (code, True)


LIMITED = """
import resource
from saeserve.worker import job_process
from saeserve.worker.failures import failure_of
from saeserve.worker.runners.base import runner_of
resource.setrlimit(resource.RLIMIT_AS, (200 * 2**20,) * 2)
try:
    runner_of("train")
except Exception as error:
    print(failure_of(error, 0).code, failure_of(error, 0).retryable)
"""


def test_torch_that_does_not_fit_a_memory_limit_is_out_of_memory() -> None:
    told = subprocess.check_output([sys.executable, "-c", LIMITED], text=True)
    assert told.split() == ["OOM_HOST", "True"]
