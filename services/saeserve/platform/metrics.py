"""Prometheus figures: one registry a process, served on its own address."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from saeserve.platform.address import TcpAddress, is_local, parse_tcp
from saeserve.platform.errors import StartupError

LATENCY_BUCKETS = tuple(0.0005 * 2**n for n in range(16))
"""0.5 ms to 16 s, doubling."""


class Metrics:
    """The registry of one process, with build, process and gRPC figures."""

    def __init__(self, service: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        build = Gauge(
            "saeserve_build_info",
            "1, labelled by what runs.",
            ("service", "version", "python"),
            registry=self.registry,
        )
        build.labels(service, version("saeserve"), platform.python_version()).set(1)
        self.grpc_requests = Counter(
            "saeserve_grpc_requests_total",
            "gRPC calls that ended, by status code.",
            ("service", "method", "code"),
            registry=self.registry,
        )
        self.grpc_seconds = Histogram(
            "saeserve_grpc_request_seconds",
            "Seconds from the first byte of a gRPC call to its end.",
            ("service", "method"),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )


@dataclass(frozen=True)
class MetricsEndpoint:
    """A running HTTP server that answers /metrics."""

    address: TcpAddress
    server: WSGIServer
    thread: Thread

    def close(self) -> None:
        """Stop answering and free the port."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def serve_metrics(
    registry: CollectorRegistry, address: str, *, insecure: bool = False
) -> MetricsEndpoint:
    """Serve `registry` at host:port (port 0 takes a free one), without TLS or tokens; beyond
    loopback only when `insecure`. Raises StartupError."""
    wanted = parse_tcp(address)
    if not insecure and not is_local(address):
        raise StartupError(
            f"metrics at {address} can be read from other machines",
            reason="INSECURE_ADDRESS",
            remedy="serve them on 127.0.0.1, or set SAESERVE_METRICS_OPEN=true on a network that "
            "you trust",
        )
    try:
        server, thread = start_http_server(wanted.port, wanted.host, registry)
    except OSError as error:
        raise StartupError(
            f"metrics cannot be served at {address}: {error.strerror}",
            reason="ADDRESS_IN_USE",
            remedy="stop what listens there or set the service's metrics address",
        ) from error
    return MetricsEndpoint(TcpAddress(wanted.host, server.server_port), server, thread)
