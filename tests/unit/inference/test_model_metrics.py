"""Latency and errors by model."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from saeserve.errors import InvalidInput, NotFound
from saeserve.inference.metrics import InferenceMetrics
from saeserve.inference.model_metrics import ModelMetrics
from saeserve.inference.work import Operation

ENCODE = Operation.ENCODE


def errors(registry: CollectorRegistry, model: str, reason: str) -> float | None:
    labels = {"model": model, "operation": "encode", "reason": reason}
    return registry.get_sample_value("saeserve_model_errors_total", labels)


def answered(registry: CollectorRegistry, model: str) -> float | None:
    labels = {"model": model, "operation": "encode"}
    return registry.get_sample_value("saeserve_model_request_seconds_count", labels)


def fail(metrics: ModelMetrics, error: BaseException) -> None:
    with metrics.call(ENCODE) as call:
        call.resource = "models/smol/versions/1"
        raise error


def test_versions_of_a_model_share_series() -> None:
    registry = CollectorRegistry()
    metrics = ModelMetrics(registry)
    for version in (1, 2):
        with metrics.call(ENCODE) as call:
            call.resource = f"models/smol/versions/{version}"
    assert answered(registry, "smol") == 2
    assert errors(registry, "smol", "INTERNAL") == 0


def test_errors_are_counted_by_their_word() -> None:
    registry = CollectorRegistry()
    metrics = ModelMetrics(registry)
    cases = {"OVERFLOW": InvalidInput("x", code="OVERFLOW"), "INTERNAL": ValueError("x")}
    for reason, error in cases.items():
        with pytest.raises(type(error)):
            fail(metrics, error)
        assert errors(registry, "smol", reason) == 1
    assert answered(registry, "smol") is None


def test_names_that_callers_make_up_get_no_series() -> None:
    registry = CollectorRegistry()
    metrics = ModelMetrics(registry)
    for _ in range(3):
        with pytest.raises(NotFound), metrics.call(ENCODE):
            raise NotFound("no such model", code="MODEL_NOT_FOUND")
    assert errors(registry, "unknown", "MODEL_NOT_FOUND") == 3


def test_the_number_of_models_is_bounded() -> None:
    registry = CollectorRegistry()
    metrics = ModelMetrics(registry, most=2)
    for name in ("a", "b", "c", "d", "a"):
        with metrics.call(ENCODE) as call:
            call.resource = f"models/{name}/versions/1"
    assert answered(registry, "a") == 2
    assert answered(registry, "c") is None
    assert answered(registry, "other") == 2


def test_a_caller_who_leaves_is_no_error() -> None:
    registry = CollectorRegistry()
    metrics = ModelMetrics(registry)
    with pytest.raises(asyncio.CancelledError):
        fail(metrics, asyncio.CancelledError())
    assert answered(registry, "smol") is None
    assert errors(registry, "smol", "INTERNAL") is None


def test_series_of_the_service_stand_at_0_before_the_first_request() -> None:
    registry = CollectorRegistry()
    InferenceMetrics(registry)
    value = registry.get_sample_value
    for name in ("encode_rows", "decode_rows", "reconstruct_rows"):
        assert value(f"saeserve_{name}_total") == 0
    assert value("saeserve_rejected_total", {"reason": "queue_full"}) == 0
    assert value("saeserve_model_loads_total", {"result": "evicted"}) == 0
    assert value("saeserve_stage_seconds_count", {"stage": "compute"}) == 0
