"""The probe of container health checks, against real servers."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TypeVar

import pytest
from tests.fakes.echo_service import ECHO, NAME

from saeserve.platform.grpc_server import GrpcServer
from saeserve.platform.healthcheck import main, probe
from saeserve.platform.metrics import Metrics, serve_metrics

T = TypeVar("T")


def beside(act: Callable[[str], T], address: str, *, serving: bool = True) -> T:
    """What `act` finds at an echo server; it runs in a thread, as the server needs this one."""

    async def whole() -> T:
        server = GrpcServer(address, [ECHO], Metrics("test"), grace_seconds=0)
        await server.start()
        await server.set_serving(NAME, serving)
        try:
            return await asyncio.to_thread(act, server.bound)
        finally:
            await server.stop()

    return asyncio.run(whole())


def unused_address() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_serving_grpc_server_is_healthy(kind: str, tmp_path: Path) -> None:
    address = "127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path}/s"
    assert beside(lambda bound: main([bound]), address) == 0
    assert beside(lambda bound: main([bound, NAME]), address) == 0


def test_a_service_that_is_not_serving_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert beside(lambda bound: main([bound, NAME]), "127.0.0.1:0", serving=False) == 1
    assert "NOT_SERVING" in capfd.readouterr().err


def test_an_unknown_service_is_unhealthy() -> None:
    assert beside(lambda bound: probe(bound, "no.Such"), "127.0.0.1:0") == "NOT_FOUND"


def test_nobody_there_is_unhealthy() -> None:
    assert probe(unused_address()) == "UNAVAILABLE"
    assert "refused" in probe(f"http://{unused_address()}/metrics")


def test_silence_is_unhealthy() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert probe(address, timeout_s=0.2) in ("DEADLINE_EXCEEDED", "UNAVAILABLE")
        assert "timed out" in probe(f"http://{address}/metrics", timeout_s=0.2)


def test_metrics_answer_whatever_proxy_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://{unused_address()}")
    endpoint = serve_metrics(Metrics("test").registry, "127.0.0.1:0")
    try:
        assert main([f"http://{endpoint.address}/metrics"]) == 0
    finally:
        endpoint.close()


def test_what_is_missing_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    endpoint = serve_metrics(
        Metrics("test").registry, "127.0.0.1:0", missing=lambda: "no answer from Redis"
    )
    try:
        assert main([f"http://{endpoint.address}/readyz"]) == 1
        assert main([f"http://{endpoint.address}/healthz"]) == 0
    finally:
        endpoint.close()
    assert "503: Service Unavailable: no answer from Redis" in capfd.readouterr().err


def test_an_http_error_is_unhealthy() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        # The bare handler implements no method.
        assert "501" in probe(f"http://127.0.0.1:{server.server_port}/metrics")


def test_an_answer_in_another_protocol_is_unhealthy() -> None:
    assert beside(lambda bound: probe(f"http://{bound}/metrics"), "127.0.0.1:0") != ""


@pytest.mark.parametrize("arguments", [[], ["a", "b", "c"]])
def test_wrong_arguments_explain_the_use(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert "ADDRESS" in capfd.readouterr().err
