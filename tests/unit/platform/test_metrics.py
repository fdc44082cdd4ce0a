"""The metrics endpoint."""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry, Counter, Metric

from saeserve.errors import StartupError
from saeserve.platform import metrics as served_metrics
from saeserve.platform.metrics import LATENCY_BUCKETS, Metrics, MetricsEndpoint, serve_metrics
from saeserve.platform.settings import ServiceSettings


def test_serves_build_info_and_families() -> None:
    metrics = Metrics("control")
    metrics.grpc_requests.labels("s", "m", "OK").inc()
    endpoint = serve_metrics(metrics.registry, "127.0.0.1:0")
    try:
        with urlopen(f"http://{endpoint.address}/metrics") as answer:
            text = answer.read().decode()
    finally:
        endpoint.close()
    assert 'saeserve_build_info{python="' in text
    assert 'saeserve_grpc_requests_total{code="OK",method="m",service="s"} 1.0' in text
    assert "process_resident_memory_bytes" in text


def test_other_paths_are_not_found() -> None:
    endpoint = serve_metrics(Metrics("control").registry, "127.0.0.1:0")
    try:
        with urlopen(f"http://{endpoint.address}/healthz") as answer:
            assert answer.read() == b"ok\n"
        for path in ("", "/", "/readyz", "/metric", "/metrics/", "/metrics/more", "/favicon.ico"):
            with pytest.raises(HTTPError, match="404"):
                urlopen(f"http://{endpoint.address}{path}")
    finally:
        endpoint.close()


REQUEST = b"GET /metrics HTTP/1.1\r\n\r\n"
ROWS = 100_000


def a_long_page() -> CollectorRegistry:
    """Figures that the buffers of a connection do not hold."""
    registry = CollectorRegistry()
    long = Counter("long", "Many series.", ("a",), registry=registry)
    for number in range(ROWS):
        long.labels(str(number))
    return registry


def until(reached: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < limit
        time.sleep(0.01)


def connected(endpoint: MetricsEndpoint, sent: bytes = b"") -> socket.socket:
    """A scraper that has said no more than this."""
    made = socket.create_connection((endpoint.address.host, endpoint.address.port))
    made.sendall(sent)
    return made


def killed(scraper: socket.socket) -> None:
    """End it as the kernel does for a process that is gone: with a reset."""
    scraper.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    scraper.close()


def test_a_prometheus_that_dies_or_hangs_in_a_scrape_harms_nothing(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = serve_metrics(a_long_page(), "127.0.0.1:0")
    hanging = [connected(endpoint, REQUEST[:n]) for n in (0, 5, len(REQUEST))]
    try:
        for sent in (b"", REQUEST[:5], REQUEST, b"no HTTP\r\n\r\n"):
            killed(connected(endpoint, sent))
        cut = connected(endpoint, REQUEST)
        assert cut.recv(100)
        killed(cut)
        with urlopen(f"http://{endpoint.address}/metrics") as answer:
            assert b'long_total{a="99999"}' in answer.read()
    finally:
        endpoint.close()
        for each in hanging:
            each.close()
    assert capfd.readouterr().err == ""
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


@pytest.mark.parametrize("sent", [b"", b"GET /met", REQUEST])
def test_a_scraper_on_whose_connection_nothing_moves_is_hung_up_on(
    sent: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(served_metrics, "SILENCE_S", 0.2)
    # Not by their idents: that of a thread which ends may be given to another.
    before = set(threading.enumerate())
    endpoint = serve_metrics(a_long_page(), "127.0.0.1:0")
    ended = threading.Event()
    hang_up = endpoint.server.shutdown_request

    def hung_up(request: socket.socket) -> None:
        hang_up(request)
        ended.set()

    monkeypatch.setattr(endpoint.server, "shutdown_request", hung_up)
    silent = connected(endpoint, sent)
    try:
        assert ended.wait(60)
        # The thread that serves all, and none for the connection.
        until(lambda: set(threading.enumerate()) - before == {endpoint.thread})
    finally:
        silent.close()
        endpoint.close()
    assert capfd.readouterr().err == ""


class Broken:
    """A collector that fails."""

    def collect(self) -> Iterator[Metric]:
        raise LookupError("no such device")


def test_figures_that_cannot_be_read_are_a_500_and_a_line_of_our_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    registry = CollectorRegistry(auto_describe=False)
    endpoint = serve_metrics(registry, "127.0.0.1:0")
    registry.register(Broken())
    try:
        with pytest.raises(HTTPError, match="500"):
            urlopen(f"http://{endpoint.address}/metrics")
        with urlopen(f"http://{endpoint.address}/healthz") as answer:
            assert answer.read() == b"ok\n"
    finally:
        endpoint.close()
    assert [record.getMessage() for record in caplog.records] == ["/metrics could not be answered"]
    assert "no such device" in caplog.text
    assert capfd.readouterr().err == ""


def test_readiness_says_what_is_missing() -> None:
    lacking = "the store is away"
    endpoint = serve_metrics(Metrics("a").registry, "127.0.0.1:0", missing=lambda: lacking)
    try:
        with pytest.raises(HTTPError, match="503") as refused:
            urlopen(f"http://{endpoint.address}/readyz")
        assert refused.value.read() == b"the store is away\n"
        lacking = ""
        with urlopen(f"http://{endpoint.address}/readyz") as answer:
            assert answer.read() == b"ok\n"
    finally:
        endpoint.close()


def test_build_info_names_the_revision() -> None:
    def revision(metrics: Metrics) -> str:
        families = {family.name: family for family in metrics.registry.collect()}
        return families["saeserve_build_info"].samples[0].labels["revision"]

    assert revision(Metrics("control", "0123abc")) == "0123abc"
    assert revision(Metrics("control")) == "unknown"


def test_expected_calls_stand_at_0() -> None:
    metrics = Metrics("control")
    metrics.expect("s", ["m"])
    labels = {"service": "s", "method": "m", "code": "INTERNAL"}
    assert metrics.registry.get_sample_value("saeserve_grpc_requests_total", labels) == 0


def test_a_port_in_use_is_a_startup_error() -> None:
    endpoint = serve_metrics(Metrics("a").registry, "127.0.0.1:0")
    try:
        with pytest.raises(StartupError, match=f"{endpoint.address}: Address already in use"):
            serve_metrics(Metrics("b").registry, str(endpoint.address))
    finally:
        endpoint.close()


def test_a_closed_endpoint_frees_its_port() -> None:
    first = serve_metrics(Metrics("a").registry, "127.0.0.1:0")
    first.close()
    second = serve_metrics(Metrics("b").registry, str(first.address))
    second.close()
    assert second.address == first.address


def test_latency_buckets_reach_from_half_a_millisecond_to_sixteen_seconds() -> None:
    assert LATENCY_BUCKETS[0] == 0.0005
    assert LATENCY_BUCKETS[-1] == pytest.approx(16.384)


def test_metrics_that_others_can_read_have_to_be_wanted() -> None:
    with pytest.raises(StartupError, match="read from other machines") as caught:
        serve_metrics(Metrics("a").registry, "0.0.0.0:0")
    assert "SAESERVE_METRICS_OPEN" in caught.value.remedy
    assert ServiceSettings(metrics_open=True).metrics_reachable
    assert not ServiceSettings().metrics_reachable
    serve_metrics(Metrics("b").registry, "0.0.0.0:0", insecure=True).close()
