"""Metrics of the control service, in addition to those that every service has."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from saeserve.core.specs.jobs import JOB_KINDS
from saeserve.jobs.states import TERMINAL, JobState

CLASSES = ("cpu", "gpu")
"""Resource classes whose series always stand; others come with their first job."""
EXPECTED_FAILURES = (
    *("CHILD_CRASHED", "DATA_MISMATCH", "DISK_FULL", "DIVERGED_NAN", "INTERNAL", "INTERRUPTED"),
    *("JOB_LOST", "OOM_GPU", "OOM_HOST", "STALLED", "STORE_UNAVAILABLE", "WORKER_LOST"),
)
"""Codes whose counters stand at 0 before a first failure."""
_SECONDS = (
    *(1, 3, 10, 30, 60, 120, 300, 600, 1200, 1800),
    *(hours * 3600 for hours in (1, 2, 4, 8, 24, 72)),
)


class ControlMetrics:
    """Jobs, and what the reconciler had to do for them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.jobs = Gauge(
            "saeserve_jobs",
            "Jobs in each state, by resource class; absent where another control service leads.",
            ("state", "class"),
            registry=registry,
        )
        self.workers = Gauge(
            "saeserve_workers",
            "Live workers that take jobs of a class, by what they announce.",
            ("class",),
            registry=registry,
        )
        self.oldest_queued = Gauge(
            "saeserve_oldest_queued_job_age_seconds",
            "How long the QUEUED job of a class that has waited longest has waited; 0 without one.",
            ("class",),
            registry=registry,
        )
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
        self.failures = Counter(
            "saeserve_job_failures_total",
            "Jobs that ended as FAILED, by the code of their error (ERRORS.md).",
            ("code",),
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
        self._last_round = time.monotonic()
        age = Gauge(
            "saeserve_reconciler_last_round_age_seconds",
            "Seconds since the reconciler ended a round without an error.",
            registry=registry,
        )
        age.set_function(lambda: time.monotonic() - self._last_round)
        self.leading = Gauge(
            "saeserve_reconciler_leading",
            "1 where this control service reconciles, 0 where another does.",
            registry=registry,
        )
        self._begin()

    def _begin(self) -> None:
        """Let counters begin at 0, so that rates miss no first event."""
        for kind in JOB_KINDS:
            for state in TERMINAL:
                self.finished.labels(kind, state.value)
                self.duration.labels(kind, state.value)
        for code in EXPECTED_FAILURES:
            self.failures.labels(code)

    def round_ended(self, *, leading: bool) -> None:
        """Note that the reconciler works; a follower knows nothing of the queue."""
        self._last_round = time.monotonic()
        self.leading.set(leading)
        if not leading:
            for gauge in (self.jobs, self.workers, self.oldest_queued):
                gauge.clear()

    def count_jobs(self, counts: dict[tuple[JobState, str], int]) -> None:
        """Set the jobs of every state and class; those without any to 0."""
        for name in {*CLASSES, *(each for _, each in counts)}:
            for state in JobState:
                self.jobs.labels(state.value, name).set(counts.get((state, name), 0))
