"""Every kernel in Triton compiles for an H100 without one, and its registers suffice.

In a process of its own, without the interpreter.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
MOST_REGISTERS = 255


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, int]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.compiled_offline"],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_kernels_compile_without_spilling_registers(reports: dict[str, dict[str, int]]) -> None:
    assert len(reports) > 4
    for name, used in reports.items():
        assert used["stack"] == used["local"] == 0, name
        assert 0 < used["registers"] <= MOST_REGISTERS, name


def test_every_kernel_is_compiled(reports: dict[str, dict[str, int]]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.compiled_offline", "--names"],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    launched = set(json.loads(done.stdout))
    assert launched
    assert launched == {name.split()[0] for name in reports}
