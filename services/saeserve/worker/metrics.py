"""What a worker tells Prometheus. Job ids are no labels: the event streams have them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import cast

from prometheus_client import CollectorRegistry, Counter, Gauge

from saeserve.jobs.record import Event

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
    "dead": "Latents that have not fired for the dead window.",
    "lr": "Learning rate of the latest step.",
    "tokens_per_second": "Training rows a second, optimiser included.",
    "data_wait_fraction": "Share of the time that training waits for activation rows.",
}


class WorkerMetrics:
    """Counters and gauges of one worker; training's describe the job that runs now."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._train = {
            key: Gauge(name, _HELP[key], registry=registry) for key, name in _GAUGES.items()
        }
        self._loss = Gauge("saeserve_train_loss", "Loss terms.", ["term"], registry=registry)
        self._tokens = Counter(
            "saeserve_train_tokens", "Activation rows trained on.", registry=registry
        )
        self._harvested = Counter(
            "saeserve_harvest_tokens", "Activation rows harvested.", registry=registry
        )
        self._progress = Gauge(
            "saeserve_last_progress_timestamp_seconds",
            "When the running job last told of progress.",
            registry=registry,
        )
        self._attempts = Counter(
            "saeserve_attempts", "Attempts by how they ended.", ["outcome"], registry=registry
        )
        self._fenced = Counter(
            "saeserve_fenced", "Attempts stopped because a newer one exists.", registry=registry
        )

    def ended(self, outcome: str) -> None:
        """Count an attempt."""
        self._attempts.labels(outcome).inc()
        if outcome == "fenced":
            self._fenced.inc()

    def observe(
        self, kind: str, event: Event, before: Mapping[str, float], resume_step: int
    ) -> None:
        """Take in a metrics event of a job of `kind`; `before` has the last one's values."""
        self._progress.set(time.time())
        values = cast("dict[str, float]", event.data.get("metrics", {}))
        if kind == "train":
            if not before:
                self._loss.clear()  # another architecture may have had other terms
                before = _at_start(event.step, values, resume_step)
            self._training(values)
            self._tokens.inc(_advance("tokens", values, before))
        elif kind == "harvest":
            self._harvested.inc(_advance("rows", values, before))

    def _training(self, values: Mapping[str, float]) -> None:
        for key, gauge in self._train.items():
            if key in values:
                gauge.set(values[key])
        for key, value in values.items():
            if key == "loss" or key.startswith("loss_"):
                self._loss.labels("total" if key == "loss" else key[5:]).set(value)


def _at_start(step: int, values: Mapping[str, float], resume_step: int) -> Mapping[str, float]:
    """Tokens at the attempt's start: steps are of equal size."""
    return {"tokens": values.get("tokens", 0.0) * resume_step / max(step, 1)}


def _advance(key: str, values: Mapping[str, float], before: Mapping[str, float]) -> float:
    """How far a running total moved; nothing for the first value, whose start is not known."""
    if key not in values or key not in before:
        return 0.0
    return max(0.0, values[key] - before[key])
