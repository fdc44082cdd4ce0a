"""The gRPC server of every service: health, reflection, limits, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import grpc.aio
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from saeserve.errors import StartupError
from saeserve.platform.address import (
    TcpAddress,
    check_allowed,
    is_answered,
    parse_tcp,
    unix_path,
    why_not_bound,
)
from saeserve.platform.auditing import Auditor
from saeserve.platform.auth.guard import Guard
from saeserve.platform.auth.rules import Rule
from saeserve.platform.interceptors import CallInterceptor
from saeserve.platform.messages import SLACK_BYTES, MessageReader
from saeserve.platform.metrics import Metrics
from saeserve.platform.paths import PathCover
from saeserve.platform.protection import NO_PROTECTION, Protection, method_rules
from saeserve.platform.startup_errors import address_in_use
from saeserve.platform.status import NO_COVER

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Maximum size of an answer, and of a request that carries tensors."""
MAX_CALLS = 1000
_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES + SLACK_BYTES),
    # Without this a second server on the same port starts, and takes half of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients then resolve the name again and find replicas that have come; running calls go on.
    ("grpc.max_connection_age_ms", 300_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


@dataclass(frozen=True)
class Service:
    """A gRPC service: its full name, and how its servicer is added to a server.

    `request_bytes` are the sizes that methods take, by name, where it is not the usual 1 MiB;
    `rules` what methods ask of their callers. A method without one is answered to nobody by a
    server that asks for tokens.
    """

    name: str
    add: Callable[[grpc.aio.Server], None]
    request_bytes: Mapping[str, int] = field(default_factory=dict[str, int])
    rules: Mapping[str, Rule] = field(default_factory=dict[str, Rule])


class GrpcServer:
    """An aio server with grpc.health.v1, reflection, error mapping and metrics.

    Make and use it in a running event loop. `bound` is where it listens once `start` is done.
    """

    def __init__(
        self,
        address: str,
        services: Sequence[Service],
        metrics: Metrics,
        *,
        insecure: bool = False,
        grace_seconds: float = 10.0,
        max_calls: int = MAX_CALLS,
        cover: PathCover = NO_COVER,
        protection: Protection = NO_PROTECTION,
    ) -> None:
        """More than `max_calls` calls at a time are refused before their requests are read; errors
        show no folder that `cover` knows. Without TLS only this machine is answered, unless
        `insecure`."""
        check_allowed(address, insecure=insecure, tls=protection.tls is not None)
        self.address = address
        self._tls = protection.tls
        self.bound = address
        self._grace = grace_seconds
        self._services = tuple(services)
        for service in services:
            metrics.expect(service.name, _methods(service.name))
        reader = MessageReader(
            {
                f"/{service.name}/{method}": size
                for service in services
                for method, size in service.request_bytes.items()
            }
        )
        rules = method_rules((service.name, service.rules) for service in services)
        guard, auditor = Guard(rules, protection.verifier), Auditor(rules, protection.audit)
        self._server = grpc.aio.server(
            interceptors=[CallInterceptor(metrics, reader, guard, auditor, cover)],
            # What is larger than any method takes is refused by its announced length.
            options=(*_OPTIONS, ("grpc.max_receive_message_length", reader.largest)),
            maximum_concurrent_rpcs=max_calls,
        )
        # The stubs lack the asyncio half of grpc_health.
        self._health = cast(Any, health).aio.HealthServicer()
        self._stopping = asyncio.Event()
        self._heeded: list[signal.Signals] = []
        self._add_services()

    async def start(self) -> None:
        """Bind and answer. Raises StartupError when the address is taken.

        In the main thread SIGTERM and SIGINT are `request_stop` from here on.
        """
        self._bind()
        await self._server.start()
        self._heed_signals()
        await self.set_serving("", True)
        await self.set_ready(True)

    async def set_serving(self, name: str, serving: bool) -> None:
        """Set the health of the service `name`; "" is the server as a whole."""
        status = health_pb2.HealthCheckResponse
        await self._health.set(name, status.SERVING if serving else status.NOT_SERVING)

    async def set_ready(self, ready: bool) -> None:
        """Set the health of all services by name; that of the server as a whole stays."""
        for service in self._services:
            await self.set_serving(service.name, ready)

    async def run_until_stopped(self) -> None:
        """Serve until SIGTERM, SIGINT or `request_stop`, then stop in order."""
        try:
            await self._stopping.wait()
        finally:
            await self.stop()

    def request_stop(self) -> None:
        """Make `run_until_stopped` end. For use in the event loop."""
        self._stopping.set()

    async def stop(self) -> None:
        """Tell health checks, refuse new calls, and give running ones the grace period."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self._grace)
        loop = asyncio.get_running_loop()
        while self._heeded:
            loop.remove_signal_handler(self._heeded.pop())

    def _heed_signals(self) -> None:
        # Python takes signals in the main thread alone.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self.request_stop)
                self._heeded.append(number)

    def _add_services(self) -> None:
        for service in self._services:
            service.add(self._server)
        cast(Any, health_pb2_grpc).add_HealthServicer_to_server(self._health, self._server)
        names = [service.name for service in self._services]
        reflection.enable_server_reflection(
            [*names, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server
        )

    def _bind(self) -> None:
        path = unix_path(self.address)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            # gRPC would take the socket away from the process that listens there.
            if is_answered(path):
                raise _not_bound(self.address, "another process listens there")
        port = 0
        with contextlib.suppress(RuntimeError):
            port = self._add_port()
        if port == 0:
            raise _not_bound(self.address, why_not_bound(self.address))
        if path is None:
            self.bound = str(TcpAddress(parse_tcp(self.address).host, port))

    def _add_port(self) -> int:
        """The port bound. A unix socket has no TLS: its file's permissions guard it."""
        if self._tls is None or unix_path(self.address) is not None:
            return self._server.add_insecure_port(self.address)
        return self._server.add_secure_port(self.address, self._tls.credentials())


def _methods(service: str) -> list[str]:
    """Names of the methods that the API describes; none of a service that it does not know."""
    try:
        found = descriptor_pool.Default().FindServiceByName(service)
    except KeyError:
        return []
    return [method.name for method in found.methods]


def _not_bound(address: str, why: str) -> StartupError:
    return address_in_use(f"cannot listen at {address}: {why}", "another address")
