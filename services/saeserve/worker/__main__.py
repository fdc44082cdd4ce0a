"""`python -m saeserve.worker`: a worker that runs one job at a time."""

from __future__ import annotations

from saeserve.platform import logging
from saeserve.platform.metrics import Metrics, serve_metrics
from saeserve.platform.service import run
from saeserve.worker.app import serve
from saeserve.worker.metrics import WorkerMetrics
from saeserve.worker.settings import WorkerSettings


def main() -> None:
    """Read the settings, serve metrics, take jobs until stopped."""
    settings = WorkerSettings.load()
    logging.configure(settings.log_level)
    metrics = Metrics("worker")
    endpoint = serve_metrics(
        metrics.registry, settings.worker_metrics_address, insecure=settings.insecure
    )

    def ready() -> None:
        logging.ready("worker", classes=",".join(settings.worker_classes), metrics=endpoint.address)

    try:
        serve(settings, WorkerMetrics(metrics.registry), ready)
    finally:
        endpoint.close()


if __name__ == "__main__":
    run("worker", main)
