"""One attempt, whatever becomes of its process."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence

import pytest
from tests.fakes.worker_bench import Bench, until

from saeserve.errors import Unavailable
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.record import Failure, Lease
from saeserve.jobs.states import JobState
from saeserve.worker import supervisor
from saeserve.worker.child import Child
from saeserve.worker.order import JobOrder
from saeserve.worker.report import Report
from saeserve.worker.settlement import Ending


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_committed_result_reaches_the_index(bench: Bench) -> None:
    bench.submit()
    bench.part = "report"
    assert bench.run() is Ending.SUCCEEDED
    record = bench.index.get("j-1")
    assert record is not None
    assert record.state is JobState.SUCCEEDED
    assert record.outputs[0].model == "models/m/versions/1"
    events = [entry.event for entry in bench.index.events("j-1", 0, 100)]
    assert [event.step for event in events if event.type == "metrics"] == [1, 2]
    assert events[-1].data["state"] == "SUCCEEDED"
    assert bench.registry.get_sample_value("saeserve_attempts_total", {"outcome": "succeeded"}) == 1


def test_what_a_lost_worker_had_not_passed_on_goes_first(bench: Bench) -> None:
    bench.submit()
    lost = bench.ledger.claim("j-1", "lost", 0.0)
    with Report.open(bench.ledger.store, bench.ledger, lost) as report:
        report.warning(3, "CODE", "told to the file alone")
    bench.part = "report"
    assert bench.run() is Ending.SUCCEEDED
    events = [entry.event for entry in bench.index.events("j-1", 0, 100)]
    told = [event for event in events if event.type in ("warning", "metrics")]
    assert [(event.epoch, event.type) for event in told] == [
        (lost.epoch, "warning"),
        (lost.epoch + 1, "metrics"),
        (lost.epoch + 1, "metrics"),
    ]


def test_a_failure_that_would_repeat_ends_the_job(bench: Bench) -> None:
    bench.submit()
    bench.part = "fail"
    assert bench.run() is Ending.FAILED
    result = bench.ledger.result("j-1")
    assert result is not None
    assert result.failure is not None
    assert (result.failure.code, result.failure.step) == ("BAD_DATA", 3)
    assert bench.state() == "FAILED"


def test_a_retryable_failure_gives_the_job_back_until_attempts_are_used(bench: Bench) -> None:
    bench.submit(max_attempts=2)
    bench.part = "fail-retryable"
    assert bench.run() is Ending.RETRIED
    assert bench.state() == "QUEUED"
    assert bench.run() is Ending.FAILED
    assert bench.started == [1, 2]
    result = bench.ledger.result("j-1")
    assert result is not None
    assert result.failure is not None
    assert result.failure.code == "BAD_DATA"


def test_a_crash_is_told_with_its_signal_and_step(bench: Bench) -> None:
    bench.submit(max_attempts=1)
    bench.part = "crash"
    assert bench.run() is Ending.FAILED
    result = bench.ledger.result("j-1")
    assert result is not None
    failure = result.failure
    assert failure is not None
    assert (failure.code, failure.cause, failure.step) == ("CHILD_CRASHED", "SIGSEGV", 4)
    assert bench.ledger.failure("j-1", 1) == failure


def test_an_end_without_result_is_a_crash(bench: Bench) -> None:
    bench.submit(max_attempts=1)
    bench.part = "mute"
    assert bench.run() is Ending.FAILED
    failure = bench.ledger.failure("j-1", 1)
    assert failure is not None
    assert failure.code == "CHILD_CRASHED"


@pytest.mark.parametrize("still", [False, True])
def test_a_process_that_found_the_disk_full_is_tried_again_under_that_name(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, still: bool
) -> None:
    """Also while not even the reason can be recorded."""
    bench.submit(max_attempts=2)
    bench.part = "full"

    def no_room(*_: object) -> bool:
        raise Unavailable("full", code="DISK_FULL")

    if still:
        monkeypatch.setattr(Ledger, "write_failure", no_room)
    assert bench.run() is Ending.RETRIED
    record = bench.index.get("j-1")
    assert record is not None
    assert (record.state, record.reason) == (JobState.QUEUED, "DISK_FULL")
    failure = bench.ledger.failure("j-1", 1)
    assert failure is None if still else failure is not None and failure.code == "DISK_FULL"


@pytest.mark.parametrize("kind", ["import_model", "export_model", "evaluate"])
def test_a_job_that_keeps_nothing_is_not_waited_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """However long others may take to stop, the cancellation of these is committed in seconds."""
    patient = bench.supervisor.settings.model_copy(update={"stop_grace_seconds": 600.0})
    bench.submit(kind=kind, resolved_spec={kind: {}})
    bench.part = "stubborn"
    running = bench.begin(dataclasses.replace(bench.supervisor, settings=patient))
    bench.ledger.request_cancel("j-1")
    bench.index.request_cancel("j-1")
    assert running.ending() is Ending.CANCELLED


@pytest.mark.parametrize("lost", [True, False])
def test_used_up_attempts_fail_the_job_with_the_last_word(bench: Bench, lost: bool) -> None:
    bench.submit(max_attempts=1)
    claim = bench.ledger.claim("j-1", "gone", 0.0)
    if not lost:
        lease = Lease(job="j-1", epoch=claim.epoch, owner="gone")
        bench.ledger.write_failure(lease, Failure(code="OOM_GPU", message="no memory"))
    assert bench.run() is Ending.FAILED
    assert bench.started == []
    result = bench.ledger.result("j-1")
    assert result is not None
    assert result.failure is not None
    assert result.failure.code == ("WORKER_LOST" if lost else "OOM_GPU")


def test_cancel_stops_the_process_and_commits_cancelled(bench: Bench) -> None:
    bench.submit()
    bench.part = "wait"
    running = bench.begin(bench.supervisor)
    bench.ledger.request_cancel("j-1")
    bench.index.request_cancel("j-1")
    assert running.ending() is Ending.CANCELLED
    result = bench.ledger.result("j-1")
    assert result is not None
    assert result.state is JobState.CANCELLED
    assert bench.state() == "CANCELLED"


def test_a_wish_of_before_the_start_needs_no_process(bench: Bench) -> None:
    bench.submit()
    bench.ledger.request_cancel("j-1")
    assert bench.run() is Ending.CANCELLED
    assert bench.started == []
    assert bench.state() == "CANCELLED"


def test_drain_gives_the_job_back_without_charge_and_rings(bench: Bench) -> None:
    bench.submit(max_attempts=1)
    bench.part = "wait"
    running = bench.begin(bench.supervisor)
    bench.drain.set()
    assert running.ending() is Ending.DRAINED
    assert bench.doorbell.rung == ["cpu"]
    assert bench.state() == "QUEUED"
    bench.drain.clear()
    bench.part = "finish"
    assert bench.run("other") is Ending.SUCCEEDED
    assert bench.started == [1, 2]


def test_drain_without_a_broker_leaves_the_ring_to_the_reconciler(bench: Bench) -> None:
    bench.submit()
    bench.part = "wait"
    bench.doorbell.down = True
    running = bench.begin(bench.supervisor)
    bench.drain.set()
    assert running.ending() is Ending.DRAINED
    assert bench.ledger.record("j-1").state is JobState.QUEUED


def test_a_process_that_will_not_stop_is_killed_with_its_children(bench: Bench) -> None:
    bench.submit()
    bench.part = "stubborn"
    running = bench.begin(bench.supervisor)
    grandchild = int((bench.folder("j-1", 1) / "grandchild").read_text())
    assert alive(grandchild)
    bench.drain.set()
    assert running.ending() is Ending.DRAINED
    until(lambda: not alive(grandchild))


def test_a_superseded_attempt_is_killed_and_commits_nothing(bench: Bench) -> None:
    bench.submit()
    bench.part = "wait"
    running = bench.begin(bench.supervisor)
    bench.index.down = True
    bench.ledger.claim("j-1", "other", 0.0)
    assert running.ending() is Ending.FENCED
    assert bench.ledger.result("j-1") is None
    assert bench.ledger.failure("j-1", 1) is None
    assert bench.registry.get_sample_value("saeserve_fenced_total") == 1


def test_a_process_that_finds_itself_superseded_ends_quietly(bench: Bench) -> None:
    bench.submit()
    bench.part = "fenced"
    assert bench.run() is Ending.FENCED
    assert bench.ledger.result("j-1") is None


def test_without_the_index_an_attempt_goes_on_to_its_result(bench: Bench) -> None:
    bench.submit()
    bench.part = "wait-for-go"
    running = bench.begin(bench.supervisor)
    bench.index.down = True
    bench.ledger.store.path("jobs/j-1/go").touch()
    assert running.ending() is Ending.SUCCEEDED
    bench.index.down = False
    assert bench.state() == "RUNNING"
    bench.index.expire(bench.index.leases())
    assert bench.run("other") is Ending.SUCCEEDED
    assert bench.started == [1]
    assert bench.state() == "SUCCEEDED"


def test_a_stop_from_outside_is_a_charged_attempt(bench: Bench) -> None:
    bench.submit()
    bench.part = "stopped"
    assert bench.run() is Ending.RETRIED
    failure = bench.ledger.failure("j-1", 1)
    assert failure is not None
    assert failure.code == "INTERRUPTED"


def test_a_failed_ingest_fails_its_data_set(bench: Bench) -> None:
    bench.datasets.create("rows")
    bench.submit(kind="ingest", resolved_spec={"ingest": {"dataset": "rows"}})
    bench.part = "fail"
    assert bench.run() is Ending.FAILED
    found = bench.datasets.get("rows")
    assert (found.state, found.failure) == ("FAILED", "row 3 is NaN")


def test_a_cancelled_harvest_leaves_no_pending_data_set(bench: Bench) -> None:
    bench.datasets.create("rows", "j-1")
    bench.submit(kind="harvest", resolved_spec={"harvest": {"dataset": "rows"}})
    bench.ledger.request_cancel("j-1")
    assert bench.run() is Ending.CANCELLED
    assert bench.datasets.get("rows").state == "FAILED"


def test_an_unreadable_job_fails_and_does_not_block_the_queue(bench: Bench) -> None:
    bench.submit()
    bench.ledger.store.path("jobs/j-1/job.json").write_text("{")
    assert bench.run() is Ending.FAILED
    assert bench.state() == "FAILED"


def test_the_worker_keeps_no_child(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the kernel by the child's own number: other tests' threads have children too."""
    pids: list[int] = []

    class Remembered(Child):
        def __init__(self, command: Sequence[str], stop_grace_s: float) -> None:
            super().__init__(command, stop_grace_s)
            pids.append(self.pid)

    monkeypatch.setattr(supervisor, "Child", Remembered)
    bench.submit()
    bench.run()
    assert len(pids) == 1
    with pytest.raises(ChildProcessError):
        os.waitpid(pids[0], os.WNOHANG)


_NO_MEMORY = """
import ctypes, pathlib, resource, sys
from saeserve.worker.job_log import keep_last_words
keep_last_words(pathlib.Path(sys.argv[1]) / "log.txt")
new = ctypes.CDLL("libstdc++.so.6")._Znwm
new.argtypes, new.restype = [ctypes.c_size_t], ctypes.c_void_p
resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
new(2**34)
"""


def test_native_code_that_aborts_for_want_of_memory_is_out_of_memory(bench: Bench) -> None:
    """C++ does not raise it into Python, nor does LLVM: both say so and abort."""

    def command(order: JobOrder) -> list[str]:
        folder = bench.folder(order.claim.job, order.claim.epoch)
        return [sys.executable, "-c", _NO_MEMORY, str(folder)]

    bench.submit(max_attempts=1)
    record = bench.index.acquire("cpu", "w", 60)
    assert record is not None
    patient = bench.settings.model_copy(update={"lease_seconds": 60.0})
    running = dataclasses.replace(bench.supervisor, command=command, settings=patient)
    assert running.run(record, "w") is Ending.FAILED
    failure = bench.ledger.failure("j-1", 1)
    assert failure is not None
    assert (failure.code, failure.retryable) == ("OOM_HOST", True)
    assert "std::bad_alloc" in failure.cause
