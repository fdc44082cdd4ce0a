"""Every kernel in Triton compiles for an H100 without one, and its registers suffice.

In a process of its own, without the interpreter.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.fakes.compiled_offline import Compiled

pytest.importorskip("triton", reason="Triton is not installed")
MOST_REGISTERS = 255


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.compiled_offline"],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_kernels_compile_without_spilling_registers(compiled: Compiled) -> None:
    assert len(compiled["used"]) > 4
    for name, used in compiled["used"].items():
        assert used["stack"] == used["local"] == 0, name
        assert 0 < used["registers"] <= MOST_REGISTERS, name


def test_every_kernel_is_compiled(compiled: Compiled) -> None:
    assert compiled["launched"]
    assert set(compiled["launched"]) == {name.split()[0] for name in compiled["used"]}
