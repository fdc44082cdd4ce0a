"""Figures of the control service, beside those that every service has."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600)


class ControlMetrics:
    """Jobs, and what the reconciler had to do for them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.jobs = Gauge("saeserve_jobs", "Jobs in each state.", ("state",), registry=registry)
        self.queue_wait = Histogram(
            "saeserve_job_queue_wait_seconds",
            "Seconds from the submission of a job to the start of its first attempt.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            "saeserve_job_duration_seconds",
            "Seconds from the start of a job's first attempt to its end.",
            ("kind", "outcome"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.finished = Counter(
            "saeserve_jobs_finished_total",
            "Jobs that ended.",
            ("kind", "state"),
            registry=registry,
        )
        self.rung = Counter(
            "saeserve_doorbells_republished_total",
            "Doorbells that the reconciler rang, for jobs that waited while none was queued.",
            registry=registry,
        )
        self.expired = Counter(
            "saeserve_leases_expired_total",
            "Leases whose worker was silent for too long.",
            registry=registry,
        )
        self.rebuilds = Counter(
            "saeserve_index_rebuilds_total",
            "Rebuilds of the index from the store.",
            registry=registry,
        )
