"""A sample of the GPU's kernels, run on the CPU by Triton's interpreter in a process of its own.

`make test-kernels` runs all of tests/kernels/interpreted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saeserve.core.gpu import device
from saeserve.core.gpu.device import usable_on_device

ROOT = Path(__file__).parents[4]


def test_kernels_of_a_gpu_agree_with_the_references() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/kernels/interpreted", "-m", "sample"],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]


def test_tensors_on_the_cpu_are_left_to_the_cpu() -> None:
    assert not device.interpreting()
    assert not usable_on_device(torch.ones(2))


def test_where_triton_cannot_build_its_launcher_torch_computes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Driver:
        @property
        def active(self) -> object:
            raise RuntimeError("Failed to find C compiler")

    runtime = pytest.importorskip("triton.runtime", reason="Triton is not installed")
    monkeypatch.setattr(runtime, "driver", Driver())
    device.starts_kernels.cache_clear()
    try:
        assert not device.starts_kernels()
    finally:
        device.starts_kernels.cache_clear()
    assert "C compiler" in caplog.text


def test_without_triton_nothing_runs_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def runs_on(place: torch.device) -> bool:
        return place.type == "meta"

    monkeypatch.setattr(device, "_runs_on", runs_on)
    on_device = torch.ones(2, 3, device="meta")
    monkeypatch.setattr(device, "available", lambda: True)
    assert usable_on_device(on_device)
    assert not usable_on_device(on_device, torch.ones(2))
    assert not usable_on_device(on_device.double())
    assert not usable_on_device(on_device.mT)
    monkeypatch.setattr(device, "available", lambda: False)
    assert not usable_on_device(on_device)
