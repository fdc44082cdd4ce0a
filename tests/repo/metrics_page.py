"""Every metric, read from the code: `make metrics-page` writes METRICS.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase

from saeserve.control.metrics import ControlMetrics
from saeserve.control.telemetry import TelemetryMetrics
from saeserve.explorer.metrics import ExplorerMetrics
from saeserve.inference.metrics import InferenceMetrics
from saeserve.platform.gpu_metrics import GpuCollector
from saeserve.platform.metrics import Metrics
from saeserve.platform.tls import expiry_gauge
from saeserve.worker.metrics import WorkerMetrics

PAGE = Path(__file__).resolve().parents[2] / "METRICS.md"
HEAD = """# Metrics

Made from the code by `make metrics-page`. Each service answers with its metrics under /metrics at
an address of its own: control 9470, worker 9471, inference 9472, explorer
9473. Times are in seconds, sizes in
bytes, ratios from 0 to 1. There are also `process_*` and `python_info` of the Prometheus client.
"""


@dataclass(frozen=True)
class Described:
    """A metric as Prometheus sees it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def _every(registry: CollectorRegistry) -> None:
    """What every service has is in `Metrics` already, but for TLS."""
    expiry_gauge(registry)


def _control(registry: CollectorRegistry) -> None:
    ControlMetrics(registry)
    TelemetryMetrics(registry)


def _worker(registry: CollectorRegistry) -> None:
    WorkerMetrics(registry)
    registry.register(GpuCollector(None))


def _inference(registry: CollectorRegistry) -> None:
    InferenceMetrics(registry)
    registry.register(GpuCollector(None))


def _explorer(registry: CollectorRegistry) -> None:
    ExplorerMetrics(registry)


SECTIONS: dict[str, tuple[str, Callable[[CollectorRegistry], None]]] = {
    "every": ("Every service", _every),
    "control": ("Control", _control),
    "worker": ("Worker", _worker),
    "inference": ("Inference", _inference),
    "explorer": ("Explorer", _explorer),
}


def metrics_of(section: str) -> list[Described]:
    """What a service adds to every service's metrics, by name."""
    registry = Metrics("test").registry if section == "every" else CollectorRegistry()
    SECTIONS[section][1](registry)
    return sorted(_described(registry), key=lambda each: each.name)


def _described(registry: CollectorRegistry) -> Iterator[Described]:
    # No public way leads from a registry to label names that have no series yet.
    for collector in dict[Any, Any](vars(registry)["_collector_to_names"]):
        if isinstance(collector, MetricWrapperBase):
            [family] = collector.describe()
            suffix = "_total" if family.type == "counter" else ""
            labels: tuple[str, ...] = tuple(vars(collector)["_labelnames"])
            yield Described(family.name + suffix, family.type, labels, family.documentation)
        elif isinstance(collector, GpuCollector):
            yield from map(_of_gpu, collector.describe())


def _of_gpu(family: GaugeMetricFamily) -> Described:
    labels: tuple[str, ...] = tuple(vars(family)["_labelnames"])
    return Described(family.name, family.type, labels, family.documentation)


def exposed_names() -> set[str]:
    """Names of all series that queries may use, histograms' three included."""
    found: set[str] = set()
    for section in SECTIONS:
        for each in metrics_of(section):
            parts = ("_bucket", "_sum", "_count") if each.kind == "histogram" else ("",)
            found |= {each.name + part for part in parts}
    return found


def labels_of() -> dict[str, set[str]]:
    """Labels of each series that queries may use."""
    found: dict[str, set[str]] = {}
    for section in SECTIONS:
        for each in metrics_of(section):
            if each.kind == "histogram":
                for part in ("_bucket", "_sum", "_count"):
                    found[each.name + part] = {*each.labels, "le"}
            else:
                found[each.name] = set(each.labels)
    return found


def page() -> str:
    """The page as it should be."""
    return HEAD + "".join(_section(name) for name in SECTIONS)


def _section(name: str) -> str:
    rows = (
        f"| `{each.name}` | {each.kind} | {', '.join(each.labels)} | {each.meaning} |\n"
        for each in metrics_of(name)
    )
    head = "| name | type | labels | meaning |\n|---|---|---|---|\n"
    return f"\n## {SECTIONS[name][0]}\n\n{head}" + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page())
