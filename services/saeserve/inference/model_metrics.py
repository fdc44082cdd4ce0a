"""Latency and errors of each model, for a bounded number of models."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram

from saeserve.errors import ServiceError
from saeserve.inference.work import Operation

MOST_MODELS = 50
OTHER, UNKNOWN = "other", "unknown"
BUCKETS = (0.002, 0.01, 0.05, 0.25, 1.0, 5.0)


@dataclass
class Call:
    """One call; `resource` is set once its model is found."""

    resource: str = ""


class ModelMetrics:
    """Figures by name of model, all versions together.

    The first `MOST_MODELS` names have series of their own, those that come later share "other";
    a model that was not found is "unknown", for callers choose such names.
    """

    def __init__(self, registry: CollectorRegistry, most: int = MOST_MODELS) -> None:
        self._most = most
        self._names: set[str] = set()
        self._lock = threading.Lock()
        self._seconds = Histogram(
            "saeserve_model_request_seconds",
            "Seconds from a request that was read to its answer, of those that were answered.",
            ("model", "operation"),
            buckets=BUCKETS,
            registry=registry,
        )
        self._errors = Counter(
            "saeserve_model_errors_total",
            "Requests that were answered with an error, by its word (ERRORS.md).",
            ("model", "operation", "reason"),
            registry=registry,
        )
        for operation in Operation:
            self._errors.labels(UNKNOWN, operation, "MODEL_NOT_FOUND")

    @contextmanager
    def call(self, operation: Operation) -> Generator[Call]:
        """Measure the block. A caller who leaves is nobody's error."""
        started, call = time.perf_counter(), Call()
        try:
            yield call
        except Exception as error:
            reason = error.code if isinstance(error, ServiceError) else "INTERNAL"
            self._errors.labels(self._label(call.resource), operation, reason).inc()
            raise
        label = self._label(call.resource)
        self._errors.labels(label, operation, "INTERNAL")
        self._seconds.labels(label, operation).observe(time.perf_counter() - started)

    def _label(self, resource: str) -> str:
        """models/<name>/versions/<n> is <name>."""
        if not resource:
            return UNKNOWN
        name = resource.removeprefix("models/").partition("/")[0]
        with self._lock:
            if name not in self._names and len(self._names) >= self._most:
                return OTHER
            self._names.add(name)
        return name
