"""Figures of GPUs, by a driver library that plays its part."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from saeserve.platform.gpu_metrics import watch_gpus

pynvml = cast(Any, importlib.import_module("pynvml"))  # without types


class NVMLError(Exception):
    pass


class Driver:
    """Two GPUs; the second is a part of one and does not tell its load."""

    def __init__(self) -> None:
        self.gone = False
        self.library = SimpleNamespace(
            NVMLError=NVMLError,
            NVML_TEMPERATURE_GPU=0,
            nvmlInit=self._answer,
            nvmlDeviceGetCount=self._count,
            nvmlDeviceGetHandleByIndex=int,
            nvmlDeviceGetMemoryInfo=self._memory,
            nvmlDeviceGetUtilizationRates=self._load,
            nvmlDeviceGetTemperature=self._temperature,
        )

    def _answer(self) -> None:
        if self.gone:
            raise NVMLError("no driver")

    def _count(self) -> int:
        self._answer()
        return 2

    def _memory(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(used=10 + handle, total=80)

    def _temperature(self, handle: int, sensor: int) -> int:
        return 41 + handle + sensor

    def _load(self, handle: int) -> SimpleNamespace:
        if handle == 1:
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=25)


def test_each_gpu_tells_what_it_can() -> None:
    registry = CollectorRegistry()
    assert watch_gpus(registry, lambda: Driver().library)

    def value(name: str, device: str) -> float | None:
        return registry.get_sample_value(f"saeserve_gpu_{name}", {"device": device})

    assert value("memory_used_bytes", "1") == 11
    assert value("memory_size_bytes", "0") == 80
    assert value("utilisation_ratio", "0") == 0.25
    assert value("utilisation_ratio", "1") is None
    assert value("temperature_celsius", "0") == 41


def test_a_driver_that_goes_away_costs_its_figures_alone(caplog: pytest.LogCaptureFixture) -> None:
    registry, driver = CollectorRegistry(), Driver()
    watch_gpus(registry, lambda: driver.library)
    driver.gone = True
    found = {sample.name for family in registry.collect() for sample in family.samples}
    assert found == set()
    assert "does not answer" in caplog.text


def test_without_a_driver_or_its_library_there_are_no_series() -> None:
    registry, driver = CollectorRegistry(), Driver()
    driver.gone = True

    def absent() -> Any:  # noqa: ANN401 - never returns
        raise ModuleNotFoundError("pynvml")

    assert not watch_gpus(registry, lambda: driver.library)
    assert not watch_gpus(registry, absent)
    assert list(registry.collect()) == []


class Card:
    """The real library, its calls to a driver answered in its own types and errors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answers: dict[str, Callable[..., object]] = {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetCount": lambda: 1,
            "nvmlDeviceGetHandleByIndex": int,
            "nvmlDeviceGetMemoryInfo": self._memory,
            "nvmlDeviceGetUtilizationRates": self._load,
            "nvmlDeviceGetTemperature": self._temperature,
        }
        for name, answer in answers.items():
            # A name that the library does not have would raise here.
            monkeypatch.setattr(pynvml, name, answer)

    def _memory(self, _handle: int) -> Any:  # noqa: ANN401 - a ctypes structure
        return pynvml.c_nvmlMemory_t(total=80 << 30, free=60 << 30, used=20 << 30)

    def _load(self, _handle: int) -> Any:  # noqa: ANN401 - a ctypes structure
        return pynvml.c_nvmlUtilization_t(gpu=75, memory=10)

    def _temperature(self, _handle: int, sensor: int) -> int:
        assert sensor == pynvml.NVML_TEMPERATURE_GPU == 0  # of nvml.h
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def test_the_real_librarys_names_types_and_errors_are_those_that_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Card(monkeypatch)
    registry = CollectorRegistry()
    assert watch_gpus(registry)
    found = {
        sample.name: sample.value for family in registry.collect() for sample in family.samples
    }
    assert found == {
        "saeserve_gpu_memory_used_bytes": 20 << 30,
        "saeserve_gpu_memory_size_bytes": 80 << 30,
        "saeserve_gpu_utilisation_ratio": 0.75,
    }


def test_the_real_library_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    registry = CollectorRegistry()
    assert not watch_gpus(registry)
    assert list(registry.collect()) == []
