"""Where jobs compute, and what their settings cost."""

from __future__ import annotations

import subprocess
import sys

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
