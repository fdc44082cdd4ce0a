"""Prometheus figures: one registry a process, served on its own address."""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from io import StringIO
from threading import Thread
from typing import TYPE_CHECKING, Any, cast
from wsgiref.simple_server import WSGIServer

import prometheus_client
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
from saeserve.platform.startup_errors import address_in_use, insecure_address

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

SILENCE_S = 60.0
"""A scraper's connection on which nothing moves for this long is closed."""

LATENCY_BUCKETS = tuple(0.0005 * 2**n for n in range(16))
"""0.5 ms to 16 s, doubling."""

EXPECTED_CODES = (
    *("OK", "INTERNAL", "UNKNOWN", "UNAVAILABLE"),
    *("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"),
)
"""Status codes whose series stand at 0 before a first call: rates over them miss none."""


class Metrics:
    """The registry of one process, with build, process and gRPC figures."""

    def __init__(self, service: str, revision: str = "") -> None:
        """`revision` names the source that runs, where it is known."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        build = Gauge(
            "saeserve_build_info",
            "1, labelled by what runs.",
            ("service", "version", "revision", "python"),
            registry=self.registry,
        )
        python = platform.python_version()
        build.labels(service, version("saeserve"), revision or "unknown", python).set(1)
        self.grpc_requests = Counter(
            "saeserve_grpc_requests_total",
            "gRPC calls that ended, by status code.",
            ("service", "method", "code"),
            registry=self.registry,
        )
        self.grpc_seconds = Histogram(
            "saeserve_grpc_request_seconds",
            "Seconds from the first byte of a gRPC call to its end; calls that stream, such as "
            "WatchJob, have no latency and are left out.",
            ("service", "method"),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )

    def expect(self, service: str, methods: Iterable[str]) -> None:
        """Let the counters of a gRPC service begin at 0."""
        for method in methods:
            for code in EXPECTED_CODES:
                self.grpc_requests.labels(service, method, code)


@dataclass(frozen=True)
class MetricsEndpoint:
    """A running HTTP server that answers /metrics and /healthz."""

    address: TcpAddress
    server: WSGIServer
    thread: Thread

    def close(self) -> None:
        """Stop answering and free the port."""
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def serve_metrics(
    registry: CollectorRegistry,
    address: str,
    *,
    insecure: bool = False,
    missing: Callable[[], str] | None = None,
) -> MetricsEndpoint:
    """Serve `registry` under /metrics at host:port (port 0 takes a free one), without TLS or
    tokens; beyond loopback only when `insecure`. /healthz answers while the process does. /readyz
    is there with `missing`, which says what the process lacks for its work: 503 with these words,
    200 when they are "". Other paths are 404. Raises StartupError."""
    wanted = parse_tcp(address)
    if not insecure and not is_local(address):
        raise insecure_address(
            f"metrics at {address} can be read from other machines",
            remedy="serve them on 127.0.0.1, or set SAESERVE_METRICS_OPEN=true on a network that "
            "you trust",
        )
    try:
        server, thread = start_http_server(wanted.port, wanted.host, registry)
    except OSError as error:
        message = f"metrics cannot be served at {address}: {error.strerror}"
        raise address_in_use(message, "the service's metrics address") from error
    # The library leaves the type of its application open.
    made = cast("WSGIApplication", cast(Any, prometheus_client).make_wsgi_app(registry))
    server.set_app(_by_path(made, missing))
    _outlive_scrapers(server)
    return MetricsEndpoint(TcpAddress(wanted.host, server.server_port), server, thread)


def _outlive_scrapers(server: WSGIServer) -> None:
    """Close connections of scrapers that hang, and keep those that break off out of the log: the
    library would wait for ever, and write tracebacks past our log."""
    # The library leaves these to be replaced, but no types say so.
    plain = cast(Any, server)
    mended = {"timeout": SILENCE_S, "get_stderr": _discarded}
    plain.RequestHandlerClass = type("Handler", (plain.RequestHandlerClass,), mended)
    plain.handle_error = _broke_off


def _discarded(_handler: object) -> StringIO:
    return StringIO()


def _broke_off(_request: object, address: object) -> None:
    """Called by the library while it handles what ended a connection."""
    log.debug("a scraper at %s broke off: %s", address, sys.exception())


def _by_path(metrics: WSGIApplication, missing: Callable[[], str] | None) -> WSGIApplication:
    """The library's own application answers with the metrics whatever the path."""

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        try:
            if path == "/metrics":
                return metrics(environ, start)
            status, text = _short_answer(path, missing)
        except Exception:
            log.exception("%s could not be answered", path)
            status, text = "500 Internal Server Error", "the service's log says why"
        start(status, [("Content-Type", "text/plain; charset=utf-8")])  # which the server adds to
        return [f"{text}\n".encode()]

    return answer


def _short_answer(path: str, missing: Callable[[], str] | None) -> tuple[str, str]:
    """(status, text) of a path other than /metrics."""
    if path == "/healthz":
        return "200 OK", "ok"
    if path == "/readyz" and missing is not None:
        lacking = missing()
        return ("503 Service Unavailable", lacking) if lacking else ("200 OK", "ok")
    more = "" if missing is None else ", /readyz"
    return "404 Not Found", f"there are /metrics, /healthz{more}"
