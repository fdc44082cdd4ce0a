"""What a worker reports to Prometheus. Job ids are labels of `attempt_metrics` alone.

`member` is the number of a sweep's member, 0 to 63, and 0 for a job without a sweep; names are
not labels, for every job brings others. Series of a job go when its attempt ends.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from saeserve.jobs.payloads import MetricsReported, WarningRaised
from saeserve.jobs.record import Claim, Event, Failure, Submission
from saeserve.worker.attempt_metrics import AttemptMetrics
from saeserve.worker.settlement import Ending

_GAUGES = {
    "fvu": "saeserve_train_fvu",
    "l0": "saeserve_train_l0",
    "dead": "saeserve_train_dead_latents",
    "lr": "saeserve_train_learning_rate",
    "tokens_per_second": "saeserve_train_tokens_per_second",
    "data_wait_fraction": "saeserve_train_data_waiting_ratio",
}
_HELP = {
    "fvu": "Fraction of variance unexplained on the latest training batch.",
    "l0": "Mean active latents a row of the latest training batch.",
    "dead": "Latents that fired on none of the last dead_window_tokens training tokens.",
    "lr": "Learning rate of the latest step.",
    "tokens_per_second": "Training rows a second, optimiser included.",
    "data_wait_fraction": "Share of the time that training waits for activation rows.",
}


class WorkerMetrics:
    """Counters and gauges of one worker; training's describe the job that runs now."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._train = {
            key: Gauge(name, _HELP[key], ["member"], registry=registry)
            for key, name in _GAUGES.items()
        }
        self._loss = Gauge(
            "saeserve_train_loss", "Loss terms.", ["member", "term"], registry=registry
        )
        self._terms: set[str] = set()
        self._tokens = Counter(
            "saeserve_train_tokens",
            "Activation rows trained on, by every member of a sweep.",
            registry=registry,
        )
        self._diverged = Counter(
            "saeserve_train_diverged_members",
            "Members of sweeps that diverged while the others went on.",
            registry=registry,
        )
        self._warnings = Counter(
            "saeserve_job_warnings",
            "Warnings raised by jobs, by their code.",
            ["code"],
            registry=registry,
        )
        self._harvested = Counter(
            "saeserve_harvest_tokens", "Activation rows harvested.", registry=registry
        )
        self._progress = Gauge(
            "saeserve_last_progress_timestamp_seconds",
            "When the running job last reported progress; absent before the first report.",
            ["kind"],
            registry=registry,
        )
        self._attempts = Counter(
            "saeserve_attempts", "Attempts by how they ended.", ["outcome"], registry=registry
        )
        self._info = Gauge(
            "saeserve_worker_info",
            "Always 1; labels say what the worker takes.",
            ["classes", "gpu"],
            registry=registry,
        )
        self._still = Gauge(
            "saeserve_worker_still_seconds",
            "How long nothing has moved in the job that runs; 0 where something does.",
            registry=registry,
        )
        self._fenced = Counter(
            "saeserve_fenced", "Attempts stopped because a newer one exists.", registry=registry
        )
        self._running = AttemptMetrics(registry)
        for ending in Ending:
            self._attempts.labels(ending)

    def describe(self, classes: str, gpu: str) -> None:
        """Say which resource classes the worker takes, with commas between, and on which GPU."""
        self._info.labels(classes, gpu).set(1)

    def ended(self, outcome: str) -> None:
        """Count an attempt."""
        self._attempts.labels(outcome).inc()
        if outcome == "fenced":
            self._fenced.inc()

    @contextlib.contextmanager
    def attempt(self, job: Submission, claim: Claim) -> Generator[None]:
        """Say which job runs within the block; figures of it go with the block's end."""
        self._running.began(job, claim)
        try:
            yield
        finally:
            self._running.ended()
            self._progress.clear()
            self._forget()

    def failed(self, failure: Failure) -> None:
        """Count an attempt that failed, also one whose job is tried again."""
        self._running.failed(failure)

    def committed(self, kind: str, event: Event) -> None:
        """A job of `kind` committed a checkpoint."""
        self._running.committed(kind, event.time)

    def attempt_began(self, kind: str) -> None:
        """Forget the figures of the training before, which may have had other members and terms."""
        if kind == "train":
            self._forget()

    def _forget(self) -> None:
        for gauge in (*self._train.values(), self._loss):
            gauge.clear()
        self._terms.clear()

    def observe(
        self,
        kind: str,
        step: int,
        report: MetricsReported,
        before: Mapping[str, float] | None,
        resume_step: int,
    ) -> None:
        """Take in a report at `step` of a job of `kind`; `before` has the last values of the same
        member, None at first."""
        self._progress.labels(kind).set(time.time())
        values = report.metrics
        if kind == "train":
            self._training(str(report.member_number), values)
            before = _at_start(step, values, resume_step) if before is None else before
            self._tokens.inc(_advance("tokens", values, before))
        elif kind == "harvest":
            self._harvested.inc(_advance("rows", values, before or {}))

    def warned(self, warning: WarningRaised) -> None:
        """Count a warning."""
        self._warnings.labels(warning.code).inc()
        self._running.lost(warning.code)

    def still(self, seconds: float) -> None:
        """Say how long nothing has moved."""
        self._still.set(seconds)

    def lost_member(self, warning: WarningRaised) -> None:
        """A member diverged: its figures stand for nothing that trains."""
        self._diverged.inc()
        number = str(warning.member_number)
        with contextlib.suppress(KeyError):  # it may have reported nothing yet
            for gauge in self._train.values():
                gauge.remove(number)
            for term in self._terms:
                self._loss.remove(number, term)

    def _training(self, number: str, values: Mapping[str, float]) -> None:
        for key, gauge in self._train.items():
            if key in values:
                gauge.labels(number).set(values[key])
        for key, value in values.items():
            if key == "loss" or key.startswith("loss_"):
                term = "total" if key == "loss" else key[5:]
                self._terms.add(term)
                self._loss.labels(number, term).set(value)


def _at_start(step: int, values: Mapping[str, float], resume_step: int) -> Mapping[str, float]:
    """Tokens at the attempt's start: steps are of equal size."""
    return {"tokens": values.get("tokens", 0.0) * resume_step / max(step, 1)}


def _advance(key: str, values: Mapping[str, float], before: Mapping[str, float]) -> float:
    """How far a running total moved; nothing for the first value, whose start is not known."""
    if key not in values or key not in before:
        return 0.0
    return max(0.0, values[key] - before[key])
