"""Errors and metrics around calls of every kind, on a real server."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from tests.fakes import echo_service
from tests.fakes.echo_service import ECHO, NAME
from typing_extensions import override

from saeserve.platform import answers
from saeserve.platform.grpc_server import GrpcServer
from saeserve.platform.logging import JsonFormatter
from saeserve.platform.metrics import Metrics

Call = Callable[[grpc.aio.Channel, bytes], Awaitable[list[bytes]]]


async def call_unary_unary(channel: grpc.aio.Channel, request: bytes) -> list[bytes]:
    return [await method(channel, "unary_unary", "UnaryUnary")(request)]


async def call_unary_stream(channel: grpc.aio.Channel, request: bytes) -> list[bytes]:
    return [part async for part in method(channel, "unary_stream", "UnaryStream")(request)]


async def call_unary_writer(channel: grpc.aio.Channel, request: bytes) -> list[bytes]:
    return [part async for part in method(channel, "unary_stream", "UnaryWriter")(request)]


async def call_stream_unary(channel: grpc.aio.Channel, request: bytes) -> list[bytes]:
    return [await method(channel, "stream_unary", "StreamUnary")(stream(b"a", request))]


async def call_stream_stream(channel: grpc.aio.Channel, request: bytes) -> list[bytes]:
    responses = method(channel, "stream_stream", "StreamStream")(stream(b"a", request))
    return [part async for part in responses]


CALLS: dict[str, tuple[Call, list[bytes]]] = {
    "UnaryUnary": (call_unary_unary, [b"b"]),
    "UnaryStream": (call_unary_stream, [b"first", b"b"]),
    "UnaryWriter": (call_unary_writer, [b"first", b"b"]),
    "StreamUnary": (call_stream_unary, [b"ab"]),
    "StreamStream": (call_stream_stream, [b"a", b"b"]),
}


async def stream(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def method(channel: grpc.aio.Channel, kind: str, name: str) -> Callable[..., Any]:
    return getattr(channel, kind)(f"/{NAME}/{name}")


@asynccontextmanager
async def serving(metrics: Metrics) -> AsyncGenerator[grpc.aio.Channel]:
    server = GrpcServer("127.0.0.1:0", [ECHO], metrics, grace_seconds=0)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(server.bound) as channel:
            yield channel
    finally:
        await server.stop()


def outcome(call: Call, request: bytes, metrics: Metrics) -> list[bytes]:
    async def scenario() -> list[bytes]:
        async with serving(metrics) as channel:
            return await call(channel, request)

    return asyncio.run(scenario())


def refusal(
    request: bytes, call: Call = call_unary_unary, metrics: Metrics | None = None
) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        outcome(call, request, metrics or Metrics("test"))
    return caught.value


def details(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    trailing: Any = error.trailing_metadata()
    packed = status_pb2.Status.FromString(dict(trailing)["grpc-status-details-bin"])
    found: dict[str, Any] = {}
    for kind in ("ErrorInfo", "BadRequest", "RetryInfo"):
        for detail in packed.details:
            message = getattr(error_details_pb2, kind)()
            if detail.Unpack(message):
                found[kind] = message
    return found


def counted(metrics: Metrics, name: str, code: str, service: str = NAME) -> float | None:
    labels = {"service": service, "method": name, "code": code}
    return metrics.registry.get_sample_value("saeserve_grpc_requests_total", labels)


@pytest.mark.parametrize("name", CALLS)
def test_answers_pass_and_are_counted_once(name: str) -> None:
    metrics = Metrics("test")
    call, expected = CALLS[name]
    assert outcome(call, b"b", metrics) == expected
    assert counted(metrics, name, "OK") == 1
    labels = {"service": NAME, "method": name}
    seen = metrics.registry.get_sample_value("saeserve_grpc_request_seconds_count", labels)
    # How long a stream lasts says nothing of how fast it was answered.
    assert seen == (1 if name.startswith("UnaryUnary") else None)


@pytest.mark.parametrize("name", CALLS)
def test_errors_map_for_every_kind_of_call(name: str) -> None:
    metrics = Metrics("test")
    error = refusal(b"invalid", CALLS[name][0], metrics)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "rows are missing — send rows"
    assert details(error)["ErrorInfo"].metadata["field"] == "activations.shape"
    assert counted(metrics, name, "INVALID_ARGUMENT") == 1


@pytest.mark.parametrize("name", CALLS)
def test_a_call_that_is_cancelled_after_its_refusal_is_counted_as_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a caller that has its answer ends the connection, or the server stops."""
    to_status = answers.to_status

    def cancelling(status: status_pb2.Status) -> grpc.Status:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return to_status(status)

    monkeypatch.setattr(answers, "to_status", cancelling)
    metrics = Metrics("test")
    error = refusal(b"invalid", CALLS[name][0], metrics)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert counted(metrics, name, "INVALID_ARGUMENT") == 1
    assert counted(metrics, name, "CANCELLED") is None


@pytest.mark.parametrize(
    ("kind", "name"), [("unary_unary", "UnaryUnary"), ("unary_stream", "UnaryStream")]
)
def test_a_refusal_that_nobody_waits_for_any_more_is_counted_as_one(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be sent; UNKNOWN would count against the service."""
    gone = threading.Event()

    async def act(_: bytes) -> bytes:
        # The event loop stands still, so that nothing cancels the call before its refusal.
        assert gone.wait(60)
        raise echo_service.ERRORS[b"invalid"]

    def ask(address: str) -> object:
        with grpc.insecure_channel(address) as channel:
            try:
                return list(method(cast("Any", channel), kind, name)(b"", timeout=0.3))
            except grpc.RpcError as error:
                return cast("Any", error).code()
            finally:
                gone.set()

    async def scenario(metrics: Metrics) -> object:
        server = GrpcServer("127.0.0.1:0", [ECHO], metrics, grace_seconds=10)
        await server.start()
        seen = await asyncio.to_thread(ask, server.bound)
        await server.stop()
        return seen

    monkeypatch.setattr(echo_service, "act", act)
    metrics = Metrics("test")
    assert asyncio.run(scenario(metrics)) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert counted(metrics, name, "INVALID_ARGUMENT") == 1
    assert counted(metrics, name, "UNKNOWN") is None


@pytest.mark.parametrize(
    ("request_bytes", "code", "reason"),
    [
        (b"invalid", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT"),
        (b"not_found", grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
        (b"conflict", grpc.StatusCode.ALREADY_EXISTS, "CONFLICT"),
        (b"precondition", grpc.StatusCode.FAILED_PRECONDITION, "STILL_TRAINING"),
        (b"overloaded", grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL"),
        (b"unavailable", grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
        (b"spec", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SPEC"),
    ],
)
def test_kinds_become_codes(request_bytes: bytes, code: grpc.StatusCode, reason: str) -> None:
    error = refusal(request_bytes)
    info = details(error)["ErrorInfo"]
    assert (error.code(), info.reason, info.domain) == (code, reason, "saeserve")


def test_a_bad_field_is_named_as_a_violation() -> None:
    found = details(refusal(b"spec"))
    (violation,) = found["BadRequest"].field_violations
    assert violation.field == "train.topk.k"
    assert found["ErrorInfo"].metadata["remedy"] == "lower k"


def test_overload_says_when_to_come_back() -> None:
    assert details(refusal(b"overloaded"))["RetryInfo"].retry_delay.ToMilliseconds() == 250


def test_an_unforeseen_error_shows_its_id_and_never_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        error = refusal(b"unforeseen")
    text = error.details() or ""
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in text
    error_id = text.split()[2]
    assert any(error_id in record.getMessage() for record in caplog.records)
    assert "secret text" in caplog.text


def test_long_texts_fit_the_metadata() -> None:
    error = refusal(b"long")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(error.details() or "") == 1000


def test_an_abort_of_the_servicer_passes_and_is_counted() -> None:
    metrics = Metrics("test")

    async def call(channel: grpc.aio.Channel, request: bytes) -> list[bytes]:
        return [await method(channel, "unary_unary", "Aborting")(request)]

    error = refusal(b"", call, metrics)
    assert (error.code(), error.details()) == (grpc.StatusCode.DATA_LOSS, "gone")
    assert counted(metrics, "Aborting", "DATA_LOSS") == 1


def test_unknown_methods_share_one_series() -> None:
    metrics = Metrics("test")

    async def call(channel: grpc.aio.Channel, request: bytes) -> list[bytes]:
        return [await method(channel, "unary_unary", f"Guess{request.decode()}")(request)]

    assert refusal(b"17", call, metrics).code() is grpc.StatusCode.UNIMPLEMENTED
    assert counted(metrics, "other", "UNIMPLEMENTED", service="other") == 1


async def until_counted(metrics: Metrics, name: str, code: str) -> None:
    while counted(metrics, name, code) is None:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["UnaryUnary", "UnaryStream", "StreamUnary"])
def test_a_cancelled_call_is_counted(name: str) -> None:
    metrics = Metrics("test")

    async def scenario() -> None:
        async with serving(metrics) as channel:
            call = asyncio.ensure_future(CALLS[name][0](channel, b"sleep"))
            await asyncio.sleep(0.2)
            call.cancel()
            await asyncio.wait_for(until_counted(metrics, name, "CANCELLED"), 10)

    asyncio.run(scenario())


def test_a_passed_deadline_is_counted() -> None:
    metrics = Metrics("test")

    async def scenario() -> grpc.StatusCode:
        async with serving(metrics) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(channel, "unary_unary", "UnaryUnary")(b"sleep", timeout=0.2)
            await asyncio.wait_for(until_counted(metrics, "UnaryUnary", "DEADLINE_EXCEEDED"), 10)
            return caught.value.code()

    assert asyncio.run(scenario()) is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("given", "named"), [("r-17", True), ("", False), ("two words", False), ("x" * 65, False)]
)
def test_a_line_of_the_log_names_its_request(given: str, named: bool) -> None:
    seen: list[str] = []

    class Keeps(logging.Handler):
        @override
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(json.loads(JsonFormatter().format(record)).get("request", ""))

    async def call(channel: grpc.aio.Channel, request: bytes) -> list[bytes]:
        unary = method(channel, "unary_unary", "UnaryUnary")
        return [await unary(request, metadata=(("x-request-id", given),))]

    handler = Keeps(logging.ERROR)
    logging.getLogger("saeserve").addHandler(handler)
    try:
        refusal(b"unforeseen", call)
    finally:
        logging.getLogger("saeserve").removeHandler(handler)
    assert len(seen) == 1
    assert (seen[0] == given) is named
    assert seen[0]
