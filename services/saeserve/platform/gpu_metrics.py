"""Memory, load and temperature of GPUs, as NVIDIA's driver library tells them at each scrape.

It opens no context on a device, so it takes none of its memory, and it does not need torch.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import override

log = logging.getLogger(__name__)

_TEXTS = {
    "memory_used_bytes": "Memory of the GPU that is taken, by whatever process.",
    "memory_size_bytes": "Memory of the GPU.",
    "utilisation_ratio": "Share of the driver's last period in which the GPU computed.",
    "temperature_celsius": "Temperature of the GPU.",
}


class GpuCollector(Collector):
    """Figures of every GPU that the driver shows to this process."""

    def __init__(self, library: Any) -> None:  # noqa: ANN401 - a module without types
        """`library` is `pynvml`, initialised."""
        self._library = library

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The families, without asking the driver."""
        yield from self._families().values()

    @override
    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The families now; what a device does not tell, such as the load of a part of one, is
        left out."""
        families = self._families()
        library = self._library
        try:
            handles = [
                library.nvmlDeviceGetHandleByIndex(n) for n in range(library.nvmlDeviceGetCount())
            ]
        except library.NVMLError as error:
            log.warning("the GPU driver does not answer: %s", error)
            handles = []
        for number, handle in enumerate(handles):
            for name, read in self._readings(handle).items():
                try:
                    families[name].add_metric([str(number)], read())
                except library.NVMLError as error:
                    log.debug("GPU %d does not tell its %s: %s", number, name, error)
        yield from families.values()

    def _readings(self, handle: object) -> dict[str, Callable[[], float]]:
        library = self._library
        return {
            "memory_used_bytes": lambda: library.nvmlDeviceGetMemoryInfo(handle).used,
            "memory_size_bytes": lambda: library.nvmlDeviceGetMemoryInfo(handle).total,
            "utilisation_ratio": lambda: library.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
            "temperature_celsius": lambda: library.nvmlDeviceGetTemperature(
                handle, library.NVML_TEMPERATURE_GPU
            ),
        }

    def _families(self) -> dict[str, GaugeMetricFamily]:
        return {
            name: GaugeMetricFamily(f"saeserve_gpu_{name}", text, labels=["device"])
            for name, text in _TEXTS.items()
        }


def watch_gpus(
    registry: CollectorRegistry, load: Callable[[], Any] = lambda: importlib.import_module("pynvml")
) -> bool:
    """Add the figures to `registry`; False, and no series, where there is no driver or no
    library for it."""
    try:
        library = load()
    except ImportError:
        log.debug("nvidia-ml-py is not installed: no figures of GPUs")
        return False
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        log.debug("no GPU driver, so no figures of GPUs: %s", error)
        return False
    registry.register(GpuCollector(library))
    return True
