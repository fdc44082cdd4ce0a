"""Puts a worker together: its rooms, its Celery application, and how it comes and goes."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from celery import Celery, signals
from celery.apps import worker as worker_module
from celery.apps.worker import Worker

from saeserve.core.planning.machine import Machine
from saeserve.jobs.doorbell import WORKER_OPTIONS, CeleryDoorbell, celery_app, queue_name
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.ports import Doorbell, IndexUnavailable
from saeserve.jobs.redis_index import RedisIndex
from saeserve.jobs.store_gate import StoreGate
from saeserve.platform.redis import connect
from saeserve.platform.store import ArtifactStore
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.publication import Publication
from saeserve.registry.roots import Roots
from saeserve.worker.announcer import Announcer
from saeserve.worker.backoff import Backoff
from saeserve.worker.classes import no_gpu
from saeserve.worker.metrics import WorkerMetrics
from saeserve.worker.settings import WorkerSettings
from saeserve.worker.settlement import Settlement
from saeserve.worker.standby import Standby
from saeserve.worker.supervisor import Supervisor
from saeserve.worker.task import JobTaker, register

_log = logging.getLogger("saeserve.worker")


def serve(
    settings: WorkerSettings,
    machines: Mapping[str, Machine],
    metrics: WorkerMetrics,
    on_ready: Callable[[], None],
) -> bool:
    """Take jobs until asked to stop (SIGTERM: drain, then return).

    `machines`: that of each resource class to take. Waits for the broker for as long as it takes,
    at the start and whenever it goes away or refuses commands; `on_ready` is called when rings are
    heard. False when Celery ended by itself. Raises StartupError when the device was lost.
    """
    store = ArtifactStore(settings.store)
    store.check()
    client = connect(settings.broker_url)
    app = celery_app(settings.broker_url)
    index, doorbell = RedisIndex(client), CeleryDoorbell(app, client)
    drain = threading.Event()
    publication = Publication(store, DatasetRegistry(store, Roots(settings.roots)))
    settlement = Settlement(Ledger(store), index, doorbell, publication)
    kinds = {each: machine.kind for each, machine in machines.items()}
    standby = Standby(settings.threads, settings.stop_grace_seconds)
    supervisor = Supervisor(
        settings,
        settlement,
        metrics,
        drain,
        kinds=kinds,
        standby=standby if settings.standby else None,
    )
    gate = StoreGate(store, index)
    store.guard(gate)
    taker = JobTaker(
        index,
        supervisor,
        settings.lease_seconds,
        drain,
        _end_this_worker,
        backoff=Backoff(settings.retry_seconds),
        admit=gate.admit,
    )
    register(app, taker)
    announcer = Announcer(machines, index, settings.lease_seconds)

    def ready(**_: object) -> None:
        _ring_myself(doorbell, machines)
        on_ready()

    def shutting_down(**_: object) -> None:
        drain.set()
        announcer.stop()
        standby.stop()

    # Celery keeps weak references to receivers; these live as long as this call.
    signals.worker_ready.connect(ready)
    signals.worker_shutting_down.connect(shutting_down)
    # Celery writes this one line past the log, without time or level.
    cast(Any, worker_module).safe_say = _log_shutdown
    announcer.start()
    if settings.standby:
        standby.start()
    try:
        _worker(app, settings, machines).start()
    finally:
        announcer.close()
        standby.close()
    if taker.unfit.is_set():
        raise no_gpu("gpu")
    return drain.is_set()


def _log_shutdown(message: str, *_: object) -> None:
    _log.info("%s", message)


def _end_this_worker() -> None:
    """Drain the running job and end, as after a stop signal."""
    os.kill(os.getpid(), signal.SIGTERM)


def _worker(app: Celery, settings: WorkerSettings, classes: Iterable[str]) -> Worker:
    make = cast("Callable[..., Worker]", app.Worker)
    return make(
        queues=[queue_name(each) for each in classes],
        loglevel=settings.log_level,
        quiet=True,
        **WORKER_OPTIONS,
    )


def _ring_myself(doorbell: Doorbell, classes: Iterable[str]) -> None:
    """Jobs may have waited while no worker ran."""
    try:
        for each in classes:
            doorbell.ring(each)
    except IndexUnavailable as error:
        _log.warning("did not look for waiting jobs: %s; the reconciler rings", error)
