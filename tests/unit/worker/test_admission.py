"""A job process looks at the machine's memory before its first tensor."""

from __future__ import annotations

import pytest
import torch
from tests.fakes.workshop import Workshop

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.formats.train_sources import layout_of
from saeserve.core.specs.training import TrainSpec
from saeserve.errors import FailedPrecondition, SaeError, Unavailable
from saeserve.worker.order import ExitCode
from saeserve.worker.runners import admission
from saeserve.worker.runners.admission import check_memory

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


def admitted_to_a_device(shop: Workshop) -> None:
    """Ask for a small job on a device that is not there, and has room."""
    shop.planted()
    dataset = ShardedDataset.open(shop.bench.datasets.get("planted").folder)
    wanted = TrainSpec.parse(shop.train_spec(), "train")
    layout = layout_of(wanted, dataset.manifest, lambda name, _: dataset.source(name))
    check_memory(layout.resolve(wanted), layout, dataset, torch.device("cuda"))


def device_memory(_: object) -> tuple[int, int]:
    """Free and total memory of a device with room for all."""
    return 64 * GIB, 64 * GIB


@pytest.mark.parametrize(
    ("limit", "free", "error"),
    [(2**30, 2**30, FailedPrecondition), (64 * GIB, 2**14, Unavailable)],
)
def test_the_host_of_a_device_has_to_hold_its_part(
    limit: int, free: int, error: type[SaeError], shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", device_memory)
    machine(monkeypatch, limit, free)
    with pytest.raises(error, match="the host's memory has") as caught:
        admitted_to_a_device(shop)
    assert caught.value.code == "INSUFFICIENT_MEMORY"


def test_a_device_whose_host_has_room_is_taken(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", device_memory)
    machine(monkeypatch, 64 * GIB, 32 * GIB)
    admitted_to_a_device(shop)
