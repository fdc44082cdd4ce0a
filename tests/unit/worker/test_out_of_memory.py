"""Memory that runs out between the claim of a job and its first step, whatever class says so."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

import pytest
import torch
from tests.fakes.worker_bench import Bench

from saeserve.errors import DataError
from saeserve.jobs.record import Claim
from saeserve.worker import job_process
from saeserve.worker.backoff import Backoff
from saeserve.worker.order import ExitCode, JobOrder
from saeserve.worker.runners import devices
from saeserve.worker.runners.base import Completed, RunContext
from saeserve.worker.supervisor import Supervisor
from saeserve.worker.task import JobTaker

DEVICE: list[Callable[[], Exception]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    lambda: torch.AcceleratorError("CUDA error: out of memory"),
    lambda: RuntimeError("CUDA out of memory"),
    lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(h)`"),
    lambda: RuntimeError("CUDA driver error: out of memory"),
    lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
]
HOST: list[Callable[[], Exception]] = [
    MemoryError,
    lambda: ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    lambda: OSError(errno.ENOMEM, "Cannot allocate memory"),
    lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
]
CASES = [(make, "OOM_GPU") for make in DEVICE] + [(make, "OOM_HOST") for make in HOST]


def order_of(bench: Bench) -> JobOrder:
    return JobOrder(
        claim=bench.ledger.claim("j-1", "w", 0.0),
        store=bench.ledger.store.root,
        roots={},
        parent=1,
        stop_grace_s=1,
        torch_threads=1,
    )


@pytest.mark.parametrize("where", ["opening", "import", "run"])
@pytest.mark.parametrize(("make", "code"), CASES)
def test_each_class_ends_the_attempt_with_its_code(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], Exception],
    code: str,
    where: str,
) -> None:
    """While the store is opened, while the runner is imported, and in the runner."""

    def fail(*_: object, **__: object) -> Completed:
        raise make()

    def runner(_kind: str) -> Callable[[RunContext], Completed]:
        return fail

    monkeypatch.setattr(job_process, "runner_of", runner)
    if where == "opening":
        monkeypatch.setattr(job_process, "DatasetRegistry", fail)
    if where == "import":
        monkeypatch.setattr(job_process, "runner_of", fail)
    bench.submit()
    assert job_process.run(order_of(bench), threading.Event()) is ExitCode.FAILED
    failure = bench.ledger.failure("j-1", 1)
    assert failure is not None
    assert (failure.code, failure.retryable) == (code, True)


@pytest.mark.parametrize(("make", "code"), CASES)
def test_a_device_that_the_job_had_to_itself_is_not_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Exception], code: str
) -> None:
    def fail(_context: RunContext) -> Completed:
        raise make()

    def alone() -> bool:
        return False

    monkeypatch.setattr(job_process, "runner_of", {"train": fail}.get)
    monkeypatch.setattr(devices, "device_shared", alone)
    bench.submit()
    job_process.run(order_of(bench), threading.Event())
    failure = bench.ledger.failure("j-1", 1)
    assert failure is not None
    assert (failure.code, failure.retryable) == (code, code == "OOM_HOST")


@pytest.mark.parametrize(("make", "code"), CASES)
def test_memory_that_is_missing_for_the_question_too_keeps_its_code(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Exception], code: str
) -> None:
    def fail(*_: object) -> Completed:
        raise make()

    monkeypatch.setattr(job_process, "runner_of", {"train": fail}.get)
    monkeypatch.setattr(devices, "device_shared", fail)
    bench.submit()
    assert job_process.run(order_of(bench), threading.Event()) is ExitCode.FAILED
    failure = bench.ledger.failure("j-1", 1)
    assert failure is not None
    assert failure.code == code


WORKER = [
    *DEVICE,
    *HOST,
    lambda: ValueError("a fault of ours"),
    lambda: KeyError("of another class"),
    lambda: AssertionError("Torch not compiled with CUDA enabled"),
    lambda: DataError("damaged"),
]


def taker(bench: Bench) -> JobTaker:
    return JobTaker(bench.index, bench.supervisor, 60, bench.drain, backoff=Backoff(0.0))


@pytest.mark.parametrize("make", WORKER)
def test_a_worker_that_fails_before_the_claim_leaves_no_job_starting(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Exception]
) -> None:
    def fail(*_: object) -> Claim:
        raise make()

    bench.submit()
    with monkeypatch.context() as patch:
        patch.setattr(bench.ledger, "claim", fail)
        assert taker(bench).take("cpu") == 0
    assert bench.state() == "QUEUED"
    assert taker(bench).take("cpu") == 1
    assert bench.state() == "SUCCEEDED"


@pytest.mark.parametrize("make", WORKER)
def test_a_worker_that_cannot_start_the_process_gives_the_attempt_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Exception]
) -> None:
    def fail(*_: object) -> object:
        raise make()

    bench.submit()
    with monkeypatch.context() as patch:
        patch.setattr(Supervisor, "_child", fail)
        assert taker(bench).take("cpu") == 0
    assert bench.state() == "QUEUED"
    assert taker(bench).take("cpu") == 1
    assert bench.state() == "SUCCEEDED"
