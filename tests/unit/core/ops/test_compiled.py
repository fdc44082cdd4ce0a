"""Compiled loops take torch's number of threads and leave it as it is."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import numba, torch
from saeserve.core.ops.adam import AdamSettings, Moments
from saeserve.core.ops.update import Optimizer, update_
torch.set_num_threads(1)
params = {"W": torch.ones(4, 3)}
optimizer = Optimizer(AdamSettings(0.9, 0.999, 1e-8), 1.0, 0.1)
update_(params, {"W": torch.ones(4, 3)}, Moments.zeros(params), frozenset(), optimizer, 0)
print(torch.get_num_threads(), numba.get_num_threads())
"""


def test_the_first_kernel_of_a_process_does_not_change_the_number_of_threads() -> None:
    """numba's pool starts with all cores, and with the OpenMP that torch uses too."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False
    )
    assert (done.stdout.split(), done.stderr) == (["1", "1"], "")
