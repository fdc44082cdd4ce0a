"""Puts the explorer together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import uvicorn

from saeserve.explorer.application import application
from saeserve.explorer.deployment import Deployment
from saeserve.explorer.listening import bound_socket, certificates, follow_renewals, url_of
from saeserve.explorer.metrics import ExplorerMetrics
from saeserve.explorer.settings import ExplorerSettings
from saeserve.platform.address import check_allowed
from saeserve.platform.metrics import Metrics, MetricsEndpoint, serve_metrics

POLL_S = 0.02
IDLE_S = 15
"""A kept connection on which nothing moves for this long is closed."""


@dataclass(frozen=True)
class Running:
    """The parts that a caller may want to talk to; `url` is where pages are."""

    url: str
    metrics: MetricsEndpoint
    server: uvicorn.Server
    task: asyncio.Task[None]

    async def run_until_stopped(self) -> None:
        """Serve until SIGTERM, SIGINT or `request_stop`."""
        await asyncio.shield(self.task)

    def request_stop(self) -> None:
        """End the service; may be called in any thread."""
        self.server.should_exit = True


@asynccontextmanager
async def running(settings: ExplorerSettings) -> AsyncGenerator[Running]:
    """The service, answering; stopped in order when the block ends. Raises StartupError."""
    tls = settings.tls
    check_allowed(settings.explorer_address, insecure=settings.insecure, tls=tls is not None)
    metrics = Metrics("explorer", settings.revision)
    figures = ExplorerMetrics(metrics.registry)
    async with AsyncExitStack() as stack:
        deployment = Deployment(settings)
        stack.callback(deployment.close)
        held = certificates(tls, metrics.registry)
        endpoint = serve_metrics(
            metrics.registry,
            settings.explorer_metrics_address,
            insecure=settings.metrics_reachable,
            missing=lambda: "",
        )
        stack.callback(endpoint.close)
        listener = stack.enter_context(bound_socket(settings.explorer_address))
        config = uvicorn.Config(
            application(settings, deployment, figures),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=settings.max_calls,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=max(1, int(settings.grace_seconds)),
            h11_max_incomplete_event_size=32 * 2**10,
        )
        config.load()
        config.ssl = held.context if held else None
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        stack.push_async_callback(_stop, server, task)
        if held:
            renewals = asyncio.create_task(follow_renewals(held))
            stack.callback(renewals.cancel)
        while not server.started and not task.done():
            await asyncio.sleep(POLL_S)
        yield Running(url_of(settings.explorer_address, listener, tls), endpoint, server, task)


async def _stop(server: uvicorn.Server, task: asyncio.Task[None]) -> None:
    server.should_exit = True
    with suppress(asyncio.CancelledError):
        await task
