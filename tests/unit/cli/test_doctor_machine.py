"""What `saeserve doctor` says of GPU and worker."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from prometheus_client import CollectorRegistry

from saeserve.cli import doctor_machine
from saeserve.cli.doctor_machine import accelerator, worker
from saeserve.platform.metrics import serve_metrics
from saeserve.worker.metrics import WorkerMetrics


def torch_says(accelerator: dict[str, object] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    told = json.dumps({"torch": "2.13.0", "accelerator": accelerator})
    monkeypatch.setattr(doctor_machine, "PROBE", (sys.executable, "-c", f"print({told!r})"))


def test_a_gpu_is_named_where_torch_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_says({"name": "NVIDIA H200", "memory_bytes": 139 * 2**30}, monkeypatch)
    assert accelerator().detail.startswith("torch 2.13.0 sees NVIDIA H200, 139")


def test_a_driver_that_torch_cannot_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    torch_says(None, monkeypatch)
    assert accelerator().verdict == "ok"
    monkeypatch.setattr(shutil, "which", str)
    warned = accelerator()
    assert (warned.verdict, warned.remedy) == (
        "warn",
        "install a CUDA build of torch that fits the driver",
    )


def test_a_torch_that_cannot_be_imported_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        doctor_machine, "PROBE", (sys.executable, "-c", "raise SystemExit('no libtorch')")
    )
    assert accelerator().detail == "torch cannot be imported: no libtorch"


def test_a_worker_is_told_by_its_classes_and_gpu() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry).describe("gpu,cpu", "NVIDIA H200")
    endpoint = serve_metrics(registry, "127.0.0.1:0", insecure=False)
    try:
        seen = worker(str(endpoint.address))
    finally:
        endpoint.close()
    assert seen.verdict == "ok"
    assert seen.detail.endswith("classes gpu,cpu; GPU NVIDIA H200")


def test_without_a_worker_doctor_says_where_it_looked() -> None:
    seen = worker("127.0.0.1:1")
    assert (seen.verdict, seen.detail) == ("warn", "no answer at 127.0.0.1:1")
