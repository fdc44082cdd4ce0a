"""Where jobs compute, and what their settings cost."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from saeserve.worker.runners import devices

SETTLE = """
import sys, torch
from saeserve.worker.runners.devices import settle_torch
settle_torch(1)
assert torch.are_deterministic_algorithms_enabled()
assert not torch.is_deterministic_algorithms_warn_only_enabled()
assert not torch.utils.deterministic.fill_uninitialized_memory
print("torch._inductor" in sys.modules, "sympy" in sys.modules)
"""


def test_settling_torch_imports_no_compiler() -> None:
    """`torch.use_deterministic_algorithms` would: two seconds of every job's start."""
    told = subprocess.check_output([sys.executable, "-c", SETTLE], text=True)
    assert told.split() == ["False", "False"]


@pytest.mark.parametrize(("others", "shared"), [(0, False), (5 * 2**30, True)])
def test_a_device_is_shared_where_others_hold_its_memory(
    monkeypatch: pytest.MonkeyPatch, others: int, shared: bool
) -> None:
    total, own, context = 80 * 2**30, 70 * 2**30, 2**29
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (total - own - context - others, total))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: own)
    assert devices.device_shared() is shared


def test_a_device_that_does_not_answer_may_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> tuple[int, int]:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    assert devices.device_shared()
