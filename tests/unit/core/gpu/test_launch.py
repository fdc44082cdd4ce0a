"""Kernels are started where there is a device, and counted where there are shapes alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from saeserve.core.gpu.device import usable_on_device
from saeserve.core.gpu.launch import Launch, Work, counted, launch

WORK = Work(bytes=8, flops=2, gathered=4)


class Kernel:
    """Stands for one of Triton's."""

    __name__ = "add_kernel"

    def __init__(self) -> None:
        self.started: list[Any] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        return lambda *arguments, **options: self.started.append((grid, arguments, options))


def test_a_kernel_is_started_with_its_arguments_and_options() -> None:
    kernel, numbers = Kernel(), torch.ones(2)
    with counted() as launches:
        launch(kernel, (3, 1), (numbers, 2), WORK, num_warps=1)
    ((grid, arguments, options),) = kernel.started
    assert grid == (3, 1)
    assert arguments[0] is numbers
    assert arguments[1:] == (2,)
    assert options == {"num_warps": 1}
    assert launches == []


def test_on_the_meta_device_the_work_is_recorded_and_nothing_is_started() -> None:
    kernel = Kernel()
    with counted() as launches:
        launch(kernel, (3,), (torch.ones(2, device="meta"),), WORK, num_warps=1)
    assert launches == [Launch("add_kernel", WORK, (3,))]
    assert kernel.started == []


def test_outside_of_a_count_the_meta_device_is_an_error() -> None:
    kernel = Kernel()
    with counted():
        pass
    with pytest.raises(RuntimeError, match=r"add_kernel .* meta device"):
        launch(kernel, (3,), (torch.ones(2, device="meta"),), WORK)
    assert kernel.started == []


def test_tensors_without_memory_are_for_kernels_only_while_they_are_counted() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    shapes = torch.ones(2, device="meta")
    assert not usable_on_device(shapes)
    with counted():
        assert usable_on_device(shapes)
        assert not usable_on_device(shapes, torch.ones(2))
        assert not usable_on_device(shapes.double())
    assert not usable_on_device(shapes)
