"""Which classes a worker takes, by its settings and by what torch sees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saeserve.errors import StartupError
from saeserve.platform.memory import limit_bytes
from saeserve.worker import hardware
from saeserve.worker.classes import machines_of
from saeserve.worker.hardware import Accelerator, machine_of, processor_name
from saeserve.worker.probe import seen
from saeserve.worker.settings import WorkerSettings

GPU = Accelerator(name="NVIDIA H200", memory_bytes=139 * 2**30)
FAKE_GPU = """
import sys

if "saeserve.worker.probe" in sys.orig_argv:
    import torch

    torch.cuda.is_available = lambda: True
    torch.cuda.get_device_name = lambda index: "Fake 9000"
    torch.cuda.mem_get_info = lambda index: (1, 2**33)
"""


def settings(*classes: str) -> WorkerSettings:
    return WorkerSettings(worker_classes=classes, torch_threads=2)


def test_a_gpu_that_torch_sees_is_used_without_a_setting() -> None:
    machines = machines_of(settings(), lambda: GPU)
    assert list(machines) == ["gpu", "cpu"]
    assert (machines["gpu"].kind, machines["gpu"].memory_bytes) == (GPU.name, GPU.memory_bytes)
    assert machines["cpu"].memory_bytes == machines["gpu"].host_memory_bytes == limit_bytes()
    assert machines["cpu"].host_memory_bytes == 0


def test_without_a_gpu_a_worker_takes_what_the_cpu_can_run() -> None:
    assert list(machines_of(settings(), lambda: None)) == ["cpu"]


def test_settings_decide_where_they_say_something() -> None:
    assert list(machines_of(settings("gpu"), lambda: GPU)) == ["gpu"]

    def never() -> Accelerator | None:
        raise AssertionError("torch was asked")

    assert list(machines_of(settings("cpu"), never)) == ["cpu"]


@pytest.mark.parametrize("classes", [("gpu",), ("gpu", "cpu"), ("cpu", "gpu")])
def test_a_worker_of_a_class_without_its_device_does_not_start(classes: tuple[str, ...]) -> None:
    with pytest.raises(StartupError, match="torch sees no GPU") as caught:
        machines_of(settings(*classes), lambda: None)
    assert caught.value.code == "NO_DEVICE"
    assert "SAESERVE_WORKER_CLASSES" in caught.value.remedy


def test_the_probe_says_what_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert seen().accelerator is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def name(_device: int) -> str:
        return GPU.name

    def memory(_device: int) -> tuple[int, int]:
        return 5, GPU.memory_bytes

    monkeypatch.setattr(torch.cuda, "get_device_name", name)
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    assert seen().accelerator == GPU
    assert seen().torch == torch.__version__


def test_a_probe_that_fails_sees_nothing_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = (sys.executable, "-c", "raise SystemExit('libtorch is damaged')")
    monkeypatch.setattr(hardware, "PROBE", broken)
    assert hardware.accelerator() is None
    assert "libtorch is damaged" in caplog.text


def run_worker(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    plain = {key: value for key, value in os.environ.items() if "SAESERVE_" not in key}
    values = {"store": str(folder / "store"), "run": str(folder / "run"), **settings}
    return subprocess.run(
        [sys.executable, "-m", "saeserve.worker"],
        env=plain | {f"SAESERVE_{key.upper()}": value for key, value in values.items()},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_program_ends_with_2_and_one_line_where_its_class_cannot_run(tmp_path: Path) -> None:
    ended = run_worker(tmp_path, worker_classes='["gpu"]')
    assert ended.returncode == 2
    assert "torch sees no GPU" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_the_probe_process_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch reports a card here: the worker itself never imports it."""
    (tmp_path / "sitecustomize.py").write_text(FAKE_GPU)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    assert hardware.accelerator() == Accelerator(name="Fake 9000", memory_bytes=2**33)


def test_the_machine_kind_follows_processor_and_threads(tmp_path: Path) -> None:
    def box(model: str) -> Path:
        root = tmp_path / model
        (root / "proc").mkdir(parents=True)
        (root / "proc/cpuinfo").write_text(f"model name\t: {model}\nflags\t\t: amx\n" * 2)
        return root

    a, b = box("Zen"), box("Xeon")
    assert machine_of("cpu", None, 1, a).kind == "Zen, 1 thread"
    assert machine_of("cpu", GPU, 2, a).kind == "Zen, 2 threads"
    assert machine_of("cpu", None, 2, b).kind == "Xeon, 2 threads"
    assert machine_of("gpu", GPU, 2, a).kind == GPU.name
    assert processor_name(tmp_path) == "a processor without a name"
