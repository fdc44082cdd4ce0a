"""Which job a worker runs now, as series of their own that figures are joined with.

Job ids and model names are labels of these alone, and go when the attempt ends: a figure of
training has the same few series whatever job it is of.
"""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry, Counter, Gauge

from saeserve.core.specs.jobs import JobSpec
from saeserve.errors import CheckpointError, NoSpaceError, SpecError
from saeserve.jobs.record import Claim, Failure, Submission

_log = logging.getLogger("saeserve.worker.metrics")

CHECKPOINT_CODES = (CheckpointError.code, NoSpaceError.code)
"""Codes of warnings and failures that cost a checkpoint."""


class AttemptMetrics:
    """Series of the attempt that runs, and counts of its checkpoints."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._info = Gauge(
            "saeserve_attempt_info",
            "1 while the worker runs an attempt of the job; absent while it runs none.",
            ("job_id", "kind", "attempt"),
            registry=registry,
        )
        self._models = Gauge(
            "saeserve_attempt_model_info",
            "1 for each model that the running attempt makes, by its number in the sweep.",
            ("member", "model"),
            registry=registry,
        )
        self._target = Gauge(
            "saeserve_train_l0_target",
            "Mean L0 that was asked for, as target_l0 or k; absent where a weight decides.",
            ("member",),
            registry=registry,
        )
        self._checkpoint = Gauge(
            "saeserve_checkpoint_timestamp_seconds",
            "When the running attempt last committed a checkpoint; absent before its first.",
            ("kind",),
            registry=registry,
        )
        self._checkpoints = Counter(
            "saeserve_checkpoints", "Checkpoints committed.", registry=registry
        )
        self._lost = Counter(
            "saeserve_checkpoint_failures",
            "Checkpoints that were damaged and passed over (CKPT_CORRUPT), and attempts that found "
            "no room for theirs (DISK_FULL).",
            ("code",),
            registry=registry,
        )
        self._failures = Counter(
            "saeserve_attempt_failures",
            "Attempts that failed, by the code of their error (ERRORS.md), retried ones included.",
            ("code",),
            registry=registry,
        )
        for code in CHECKPOINT_CODES:
            self._lost.labels(code)

    def began(self, job: Submission, claim: Claim) -> None:
        """Say what runs now."""
        self._info.labels(job.id, job.kind, str(claim.epoch)).set(1)
        for number, (model, target) in enumerate(_models(job)):
            self._models.labels(str(number), model).set(1)
            if target is not None:
                self._target.labels(str(number)).set(target)

    def ended(self) -> None:
        """Nothing runs."""
        for gauge in (self._info, self._models, self._target, self._checkpoint):
            gauge.clear()

    def failed(self, failure: Failure) -> None:
        """Count an attempt that failed."""
        self._failures.labels(failure.code).inc()
        self.lost(failure.code)

    def lost(self, code: str) -> None:
        """Count a warning or failure that may have cost a checkpoint."""
        if code in CHECKPOINT_CODES:
            self._lost.labels(code).inc()

    def committed(self, kind: str, time: float) -> None:
        """A job of `kind` committed a checkpoint at `time`, in seconds since the epoch."""
        self._checkpoints.inc()
        self._checkpoint.labels(kind).set(time)


def _models(job: Submission) -> list[tuple[str, float | None]]:
    """Names of the models that a job makes, and the L0 asked of each."""
    try:
        spec = JobSpec.parse(job.resolved_spec, "")
    except SpecError as error:
        # The job process refuses it with a failure of its own.
        _log.debug("%s: no figures of its spec: %s", job.id, error)
        return []
    return [*spec.chosen.l0_by_model.items()]
