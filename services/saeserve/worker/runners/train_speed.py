"""Records how fast a train job was, for the plans of later ones."""

from __future__ import annotations

import logging
import statistics

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.formats.train_sources import Layout
from saeserve.core.planning.machine import SpeedRecord
from saeserve.core.planning.sizes import training_data
from saeserve.core.planning.speed import shape_of
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.events import MetricsReported, TrainingEvent
from saeserve.errors import ServiceError
from saeserve.registry.speeds import SpeedBook
from saeserve.worker.runners.base import RunContext

_log = logging.getLogger("saeserve.worker.job")


class Rates:
    """Rows a second of every report but the attempt's first, whose steps compile kernels."""

    def __init__(self) -> None:
        self._first = True
        self._rates: list[float] = []

    def observe(self, event: TrainingEvent) -> None:
        """Take in an event of the trainer."""
        if not isinstance(event, MetricsReported):
            return
        if not self._first:
            self._rates.append(event.values["tokens_per_second"])
        self._first = False

    @property
    def median(self) -> float | None:
        """Rows a second, without checkpoints; None after fewer than two reports."""
        return statistics.median(self._rates) if self._rates else None


def record_speed(
    context: RunContext, spec: TrainSpec, layout: Layout, dataset: ShardedDataset, rates: Rates
) -> None:
    """Keep the speed of a finished run. What fails here costs the job nothing."""
    rate, machine = rates.median, context.order.machine
    if not machine or not rate:
        return
    record = SpeedRecord(
        job=context.submission.id,
        shape=shape_of(spec, training_data(layout, dataset.manifest)),
        seconds_per_step=spec.batch_size / rate,
    )
    try:
        SpeedBook(context.store).add(machine, record)
    except (OSError, ServiceError) as error:
        _log.warning("%s: its speed is not recorded: %s", context.submission.id, error)
