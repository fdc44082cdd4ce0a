"""Compiled loops take torch's number of threads and leave it as it is; what numba keeps of them is
as new as their sources."""

from __future__ import annotations

import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from saeserve.core.kernels import compiled

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


def test_machine_code_is_made_anew_when_any_source_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numba alone looks at the file of the function, not at those of what is inlined into it."""
    file = tmp_path / "some_kernel.py"
    file.write_text("def double(x):\n    return 2 * x\n")
    spec = util.spec_from_file_location("some_kernel", file)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def compiles() -> bool:
        made: Any = compiled.helper(module.double)
        assert made(3.0) == 6.0
        return bool(sum(made.stats.cache_misses.values()))

    assert compiles()
    assert not compiles()
    monkeypatch.setattr(compiled, "_SOURCES", "of another state of the files")
    assert compiles()
    assert not compiles()
