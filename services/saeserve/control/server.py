"""Puts the control service together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from saeserve.control.handlers.garbage import sweep_and_log
from saeserve.control.handlers.offers import Offers
from saeserve.control.housekeeping import Housekeeper
from saeserve.control.metrics import ControlMetrics
from saeserve.control.observer import JobObserver
from saeserve.control.parts import Parts, make_parts
from saeserve.control.reconcile import ReconcileLoop
from saeserve.control.servicers.datasets import DatasetServicer, dataset_service
from saeserve.control.servicers.jobs import JobServicer, job_service
from saeserve.control.servicers.models import ModelServicer, model_service
from saeserve.control.servicers.offers import ServerServicer, server_service
from saeserve.control.servicers.pools import Pools
from saeserve.control.servicers.store import StoreServicer, store_service
from saeserve.control.servicers.transfers import TransferServicer, transfer_service
from saeserve.control.settings import ControlSettings
from saeserve.control.telemetry import Telemetry, TelemetryMetrics, redis_figures
from saeserve.errors import Unavailable
from saeserve.jobs.doorbell import CeleryDoorbell, celery_app
from saeserve.jobs.reconciler import Pace, Reconciler
from saeserve.jobs.redis_index import RedisIndex
from saeserve.jobs.redis_scripts import Reach
from saeserve.jobs.store_gate import StoreGate
from saeserve.platform.grpc_server import GrpcServer, Service
from saeserve.platform.metrics import Metrics, MetricsEndpoint, serve_metrics
from saeserve.platform.paths import PathCover
from saeserve.platform.protection import protection
from saeserve.platform.readiness import kept_up_to_date
from saeserve.platform.redis import connect, info
from saeserve.platform.store import ArtifactStore

_THREADS = 32
"""For handlers that need the store alone; `Pools` has the others."""
_PAUSE_S = 2.0
"""After a command that the broker did not answer in time: more than a call needs for its other
commands, so that a call waits once for a broker that hangs, and not four times."""

log = logging.getLogger(__name__)


class ControlServer(GrpcServer):
    """A server whose `stopping` is set before it waits for running calls."""

    stopping: asyncio.Event
    pools: Pools

    async def stop(self) -> None:
        """End watches, then stop as every server does."""
        self.stopping.set()
        await super().stop()
        self.pools.close()


@dataclass(frozen=True)
class Running:
    """The parts that a caller may want to talk to."""

    server: GrpcServer
    metrics: MetricsEndpoint


@asynccontextmanager
async def running(settings: ControlSettings) -> AsyncGenerator[Running]:
    """The service, answering; stopped in order when the block ends. Raises ServiceError."""
    store = ArtifactStore(settings.store, settings.disk_reserve_bytes)
    store.check()
    metrics = Metrics("control", settings.revision)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "handler"))
    async with AsyncExitStack() as stack:
        client = connect(settings.broker_url)
        stack.callback(client.close)
        parts = make_parts(
            settings,
            store,
            RedisIndex(client, events_s=settings.event_seconds, reach=Reach(_PAUSE_S)),
            CeleryDoorbell(celery_app(settings.broker_url), client),
        )
        store.guard(parts.gate)
        endpoint = serve_metrics(
            metrics.registry, settings.control_metrics_address, insecure=settings.metrics_reachable
        )
        stack.callback(endpoint.close)
        server = make_server(settings, parts, metrics, store)
        stack.push_async_callback(server.stop)
        await server.start()
        await asyncio.to_thread(_admit, parts.gate)
        await stack.enter_async_context(kept_up_to_date(server, [parts.gate]))
        housekeeper = _housekeeper(settings, parts)
        stack.callback(housekeeper.close)
        telemetry = Telemetry(
            store, lambda: redis_figures(info(client)), TelemetryMetrics(metrics.registry)
        )
        figures = ControlMetrics(metrics.registry)
        loop = _reconcile_loop(settings, parts, figures, housekeeper, telemetry)
        loop.start()
        stack.push_async_callback(asyncio.to_thread, loop.close)
        yield Running(server, endpoint)


def _admit(gate: StoreGate) -> None:
    """A store that is not there yet, or an index that cannot tell, is waited for."""
    try:
        gate.admit()
    except Unavailable as error:
        log.warning("the artifact store is not admitted yet: %s", error.text())


def make_server(
    settings: ControlSettings, parts: Parts, metrics: Metrics, store: ArtifactStore
) -> GrpcServer:
    """The server with all services; make it in a running event loop. Raises StartupError."""
    stopping, pools = asyncio.Event(), Pools()
    server = ControlServer(
        settings.control_address,
        _services(settings, parts, pools, stopping),
        metrics,
        insecure=settings.insecure,
        grace_seconds=settings.grace_seconds,
        max_calls=settings.max_calls,
        cover=PathCover.of(settings.store, settings.roots),
        protection=protection(settings, settings.control_address, store, metrics),
    )
    server.stopping, server.pools = stopping, pools
    return server


def _services(
    settings: ControlSettings, parts: Parts, pools: Pools, stopping: asyncio.Event
) -> list[Service]:
    return [
        job_service(JobServicer(parts.jobs, pools, stopping, settings.watch_seconds)),
        dataset_service(DatasetServicer(parts.datasets, pools)),
        model_service(ModelServicer(parts.models, pools)),
        transfer_service(TransferServicer(parts.transfers, pools, settings.transfers)),
        store_service(StoreServicer(parts.garbage)),
        server_service(ServerServicer(Offers(parts.index), pools)),
    ]


def _reconcile_loop(
    settings: ControlSettings,
    parts: Parts,
    figures: ControlMetrics,
    housekeeper: Housekeeper,
    telemetry: Telemetry,
) -> ReconcileLoop:
    pace = Pace(
        lease_ttl_s=settings.lease_seconds,
        tick_every_s=settings.reconcile_seconds,
        lead_ttl_s=settings.leader_seconds,
    )
    reconciler = Reconciler(
        parts.ledger,
        parts.index,
        parts.doorbell,
        publish=parts.publication.apply,
        prove=parts.gate.admit,
        pace=pace,
    )
    observer = JobObserver(parts.index, figures, parts.ended)

    def chores() -> None:
        housekeeper.lead()
        parts.transfers.sweep()

    return ReconcileLoop(
        reconciler, observer, figures, settings.reconcile_seconds, chores, telemetry
    )


def _housekeeper(settings: ControlSettings, parts: Parts) -> Housekeeper:
    housekeeper = Housekeeper(lambda: sweep_and_log(parts.garbage), settings.sweep_seconds)
    housekeeper.start()
    return housekeeper
