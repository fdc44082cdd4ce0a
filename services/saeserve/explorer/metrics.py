"""Figures of the explorer."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from saeserve.platform.metrics import LATENCY_BUCKETS

OTHER = "other"
"""Route of requests for addresses that do not exist: their paths are anyone's choice."""


class ExplorerMetrics:
    """Every family is made once, in the registry of the process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "saeserve_http_requests_total",
            "HTTP requests that were answered, by route and status.",
            ("route", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "saeserve_http_request_seconds",
            "Seconds from an HTTP request's head to the end of its answer.",
            ("route",),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.pictures = Counter(
            "saeserve_pictures_total",
            "Plots that were asked for: drawn, kept from before, and unchanged.",
            ("result",),
            registry=registry,
        )
        for result in ("drawn", "kept", "unchanged"):
            self.pictures.labels(result)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self.requests.labels(route or OTHER, str(status)).inc()
        self.seconds.labels(route or OTHER).observe(seconds)
