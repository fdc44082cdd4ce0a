"""The metrics endpoint."""

from __future__ import annotations

from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from saeserve.errors import StartupError
from saeserve.platform.metrics import LATENCY_BUCKETS, Metrics, serve_metrics
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
