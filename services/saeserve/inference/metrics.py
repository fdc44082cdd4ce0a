"""Figures of the inference service."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from saeserve.inference.model_metrics import ModelMetrics
from saeserve.platform.metrics import LATENCY_BUCKETS

BATCH_BUCKETS = tuple(2**n for n in range(14))
"""1 to 8192 rows, doubling."""


class InferenceMetrics:
    """Every family is made once, in the registry of the process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.models = ModelMetrics(registry)
        self.encode_rows = Counter("saeserve_encode_rows_total", "Rows encoded.", registry=registry)
        self.decode_rows = Counter("saeserve_decode_rows_total", "Rows decoded.", registry=registry)
        self.reconstruct_rows = Counter(
            "saeserve_reconstruct_rows_total", "Rows reconstructed.", registry=registry
        )
        self.batch_rows = Histogram(
            "saeserve_batch_rows",
            "Rows of a device batch.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self.queue_rows = Gauge(
            "saeserve_queue_rows", "Rows that wait for the device.", registry=registry
        )
        self.queue_wait = Histogram(
            "saeserve_queue_wait_seconds",
            "Seconds that a request waited before its first batch.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.stage = Histogram(
            "saeserve_stage_seconds",
            "Seconds spent on a request (parse, build) or batch (compute).",
            ("stage",),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.rejected = Counter(
            "saeserve_rejected_total",
            "Requests not computed: queue_full, cancelled, deadline, cache_full.",
            ("reason",),
            registry=registry,
        )
        self.models_resident = Gauge(
            "saeserve_models_resident", "Models in memory.", registry=registry
        )
        self.models_resident_bytes = Gauge(
            "saeserve_models_resident_bytes", "Memory of loaded models.", registry=registry
        )
        self.model_loads = Counter(
            "saeserve_model_loads_total",
            "Model loads: ok, error; and evicted.",
            ("result",),
            registry=registry,
        )
        self.bundles_open = Gauge(
            "saeserve_bundles_open", "Connections to feature bundles.", registry=registry
        )
        self.bundle_opens = Counter(
            "saeserve_bundle_opens_total",
            "Connections that were opened to feature bundles: ok; error, of bundles that cannot be "
            "read.",
            ("result",),
            registry=registry,
        )
        self._begin()

    def _begin(self) -> None:
        """Let every series stand from the start, so that rates miss no first event."""
        for stage in ("parse", "compute", "build"):
            self.stage.labels(stage)
        for reason in ("queue_full", "cancelled", "deadline", "cache_full"):
            self.rejected.labels(reason)
        for result in ("ok", "error", "evicted"):
            self.model_loads.labels(result)
        for result in ("ok", "error"):
            self.bundle_opens.labels(result)
