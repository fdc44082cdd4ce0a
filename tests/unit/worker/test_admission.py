"""A job process looks at the machine's memory before its first tensor."""

from __future__ import annotations

import pytest
from tests.fakes.workshop import Workshop

from saeserve.worker.order import ExitCode
from saeserve.worker.runners import admission

GIB = 2**30


def machine(monkeypatch: pytest.MonkeyPatch, limit: int, free: int) -> None:
    monkeypatch.setattr(admission, "limit_bytes", lambda: limit)
    monkeypatch.setattr(admission, "free_bytes", lambda: free)


def test_a_job_that_fits_runs(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.planted()
    machine(monkeypatch, 64 * GIB, 32 * GIB)
    assert shop.train("j-1") is ExitCode.FINISHED


def test_a_job_that_the_machine_cannot_hold_fails_for_good(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.planted()
    machine(monkeypatch, GIB, GIB)
    assert shop.train("j-1", d_sae=2**22) is ExitCode.FAILED
    failure = shop.failure("j-1")
    assert (failure.code, failure.retryable) == ("INSUFFICIENT_MEMORY", False)
    assert "this machine has 1.00 GiB" in failure.message
    assert "d_sae = " in failure.remedy


def test_a_job_that_others_leave_no_room_for_is_tried_again(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.planted()
    machine(monkeypatch, 64 * GIB, 2**20)
    assert shop.train("j-1") is ExitCode.FAILED
    failure = shop.failure("j-1")
    assert (failure.code, failure.retryable) == ("INSUFFICIENT_MEMORY", True)
    assert "free of 64.00 GiB" in failure.message
