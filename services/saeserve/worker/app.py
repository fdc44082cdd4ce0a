"""Puts a worker together: its rooms, its Celery application, and how it comes and goes."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from celery import Celery, signals
from celery.apps.worker import Worker
from celery.worker import state as celery_state

from saeserve.core.planning.machine import Machine
from saeserve.jobs.doorbell import WORKER_OPTIONS, CeleryDoorbell, celery_app, queue_name
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.ports import Doorbell, IndexUnavailable
from saeserve.jobs.redis_index import RedisIndex
from saeserve.jobs.store_gate import StoreGate
from saeserve.platform.redis import connect
from saeserve.platform.signals import SignalActor
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
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(
    settings: WorkerSettings,
    machines: Mapping[str, Machine],
    metrics: WorkerMetrics,
    on_ready: Callable[[], None],
) -> bool:
    """Take jobs until asked to stop (SIGTERM or SIGINT: drain, then return).

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
    announcer = Announcer(machines, index, settings.lease_seconds)

    def stop() -> None:
        _log.info(
            "asked to stop: takes no more jobs; one that runs is given back with its progress"
        )
        drain.set()
        announcer.stop()
        standby.stop()
        celery_state.should_stop = os.EX_OK

    stopping = SignalActor(stop)
    taker = JobTaker(
        index,
        supervisor,
        settings.lease_seconds,
        drain,
        stopping.request,
        backoff=Backoff(settings.retry_seconds),
        admit=gate.admit,
    )
    register(app, taker)

    def ready(**_: object) -> None:
        _ring_myself(doorbell, machines)
        on_ready()

    # Celery keeps a weak reference to the receiver, which lives as long as this call.
    signals.worker_ready.connect(ready)
    worker = _worker(app, settings, machines)

    def handle_signals(_: Worker) -> None:
        stopping.handle(STOP_SIGNALS)

    # In the place of Celery's handlers: they take locks, also in a handler that interrupts another.
    cast(Any, worker).install_platform_tweaks = handle_signals
    announcer.start()
    if settings.standby:
        standby.start()
    try:
        worker.start()
    finally:
        stopping.close()
        announcer.close()
        standby.close()
    if taker.unfit.is_set():
        raise no_gpu("gpu")
    return drain.is_set()


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
