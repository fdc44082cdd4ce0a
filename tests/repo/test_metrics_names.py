"""What the services tell Prometheus is named by its conventions, and stays few series."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from saeserve.control.metrics import ControlMetrics
from saeserve.control.telemetry import TelemetryMetrics
from saeserve.inference.metrics import InferenceMetrics
from saeserve.platform.metrics import Metrics
from saeserve.worker.metrics import WorkerMetrics


def _control(registry: CollectorRegistry) -> object:
    return ControlMetrics(registry), TelemetryMetrics(registry)


FIGURES: dict[str, Callable[[CollectorRegistry], object]] = {
    "control": _control,
    "worker": WorkerMetrics,
    "inference": InferenceMetrics,
}
# Each of these has a handful of values. Never a feature, client, path or error text.
LABELS = {
    *("service", "version", "revision", "python"),
    "class",
    *("job_id", "attempt"),  # of the running attempt's info series, which ends with it
    *("model", "operation"),  # of at most MOST_MODELS models, or of those that a job makes
    "device",
    *("classes", "gpu"),
    *("method", "code"),
    *("state", "kind", "outcome", "reason", "result"),
    *("stage", "term"),
    "member",  # its number in the sweep, below MOST_MEMBERS; never its name
}
NOT_BASE_UNITS = {
    *("ms", "us", "ns", "sec", "secs", "millis", "milliseconds", "microseconds", "nanoseconds"),
    *("minutes", "hours", "days", "duration_s"),
    *("kb", "mb", "gb", "kib", "mib", "gib", "kilobytes", "megabytes", "gigabytes"),
    *("percent", "pct"),
}
TIMES = {"wait", "duration", "latency", "elapsed"}


def collectors(service: str) -> Iterator[tuple[MetricWrapperBase, str, str]]:
    """Each of our collectors with its exposed name and type."""
    registry = Metrics(service).registry
    FIGURES[service](registry)
    # No public way leads from a registry to label names that have no series yet.
    for collector in dict[Any, Any](vars(registry)["_collector_to_names"]):
        if isinstance(collector, MetricWrapperBase):
            [family] = collector.describe()
            suffix = "_total" if family.type == "counter" else ""
            yield collector, family.name + suffix, family.type


@pytest.mark.parametrize("service", FIGURES)
def test_names_are_ours_and_plain(service: str) -> None:
    names = [name for _, name, _ in collectors(service)]
    assert len(names) > 5
    assert all(re.fullmatch(r"saeserve_[a-z0-9]+(_[a-z0-9]+)*", name) for name in names), names


@pytest.mark.parametrize("service", FIGURES)
def test_counters_alone_end_in_total(service: str) -> None:
    for _, name, kind in collectors(service):
        assert name.endswith("_total") == (kind == "counter"), name
        assert name.count("_total") <= 1, name
        assert not re.search(r"_(count|sum|bucket|created)$", name), name


@pytest.mark.parametrize("service", FIGURES)
def test_units_are_base_units(service: str) -> None:
    for _, name, _ in collectors(service):
        words = name.split("_")
        assert NOT_BASE_UNITS.isdisjoint(words), name
        if TIMES & set(words):
            assert name.endswith("_seconds"), name
        if "timestamp" in words:
            assert name.endswith("_timestamp_seconds"), name


@pytest.mark.parametrize("service", FIGURES)
def test_labels_are_few_and_bounded(service: str) -> None:
    for collector, name, _ in collectors(service):
        labels: set[str] = set(vars(collector)["_labelnames"])
        assert labels <= LABELS, name
        assert len(labels) <= (4 if name.endswith("_info") else 3), name


@pytest.mark.parametrize("service", FIGURES)
def test_every_figure_is_explained(service: str) -> None:
    for collector, name, _ in collectors(service):
        assert len(vars(collector)["_documentation"]) > 8, name


def test_a_name_means_the_same_everywhere() -> None:
    kinds: dict[str, set[tuple[str, ...]]] = {}
    for service in FIGURES:
        for collector, name, kind in collectors(service):
            kinds.setdefault(name, set()).add((kind, *vars(collector)["_labelnames"]))
    assert {name for name, found in kinds.items() if len(found) > 1} == set()
