"""Keeps a training job's curves in its attempt's folder: `metrics.csv` and TensorBoard's files.

Which attempt's folder counts follows from the job's result, as for everything that jobs make: what
a superseded attempt leaves is never looked at.
"""

from __future__ import annotations

import logging
from pathlib import Path

from saeserve.core.durable import sync
from saeserve.errors import ServiceError
from saeserve.jobs.curves import Point, by_model, curves, to_csv
from saeserve.jobs.layout import curves_key
from saeserve.registry.folders import commit_folder, staged_folder, write_synced
from saeserve.worker.runners.base import RunContext
from saeserve.worker.tensorboard import write_run

_log = logging.getLogger("saeserve.worker.job")


def keep_curves(context: RunContext, model: str) -> None:
    """Write what the job has reported up to now; `model` names what it trains without a sweep.

    Called when an attempt ends, in whatever way it gets to say so. The model matters more: what
    fails here is logged and costs the job nothing.
    """
    claim = context.order.claim
    try:
        points = curves(context.ledger.events(claim.job), model)
        if points:
            context.check_fence()
            _commit(context.store.path(curves_key(claim.job, claim.epoch)), points)
    except (OSError, ServiceError) as error:
        _log.warning("%s: its curves are not kept: %s", claim.job, error)


def _commit(target: Path, points: list[Point]) -> None:
    with staged_folder(target) as staged:
        write_synced(staged / "metrics.csv", to_csv(points))
        runs = staged / "tensorboard"
        runs.mkdir()
        for name, own in by_model(points).items():
            write_run(runs / name, own)
        sync(runs)
        commit_folder(staged, target)
