"""`python -m saeserve.worker`: a worker that runs one job at a time."""

from __future__ import annotations

import sys
from functools import partial
from logging import getLogger

from saeserve.platform import logging
from saeserve.platform.gpu_metrics import watch_gpus
from saeserve.platform.metrics import Metrics, serve_metrics
from saeserve.platform.readiness import what_is_missing
from saeserve.platform.redis import check, connect
from saeserve.platform.service import run
from saeserve.platform.store import ArtifactStore
from saeserve.worker.app import serve
from saeserve.worker.classes import GPU, machines_of
from saeserve.worker.metrics import WorkerMetrics
from saeserve.worker.settings import WorkerSettings

ENDED_BY_ITSELF = 1


def main() -> None:
    """Read the settings, serve metrics, take jobs until stopped.

    Exits with `ENDED_BY_ITSELF` when no signal asked for the end, so that a supervisor restarts it.
    """
    settings = WorkerSettings.load()
    logging.configure(settings.log_level, settings.log_format)
    settings.protect_files()
    machines = machines_of(settings)
    metrics = Metrics("worker", settings.revision)
    watch_gpus(metrics.registry)
    needs = (ArtifactStore(settings.store).check, partial(check, connect(settings.broker_url)))
    endpoint = serve_metrics(
        metrics.registry,
        settings.worker_metrics_address,
        insecure=settings.metrics_reachable,
        missing=partial(what_is_missing, needs),
    )

    figures = WorkerMetrics(metrics.registry)
    classes = ",".join(machines)
    device = machines[GPU].kind if GPU in machines else "none"
    figures.describe(classes, device)

    def ready() -> None:
        name = device.replace(" ", "_")
        logging.ready("worker", classes=classes, gpu=name, metrics=endpoint.address)

    try:
        drained = serve(settings, machines, figures, ready)
    finally:
        endpoint.close()
    if not drained:
        getLogger("saeserve.worker").error("ended without being asked to; the lines above say why")
        sys.exit(ENDED_BY_ITSELF)


if __name__ == "__main__":
    run("worker", main)
