"""The server: health, reflection, limits, addresses, and its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tests.fakes.echo_service import ECHO, NAME

from saeserve.errors import StartupError, Unavailable
from saeserve.platform.grpc_server import MAX_MESSAGE_BYTES, GrpcServer
from saeserve.platform.messages import USUAL_BYTES
from saeserve.platform.metrics import Metrics
from saeserve.platform.readiness import kept_up_to_date

T = TypeVar("T")
Scenario = Callable[[GrpcServer, grpc.aio.Channel], Awaitable[T]]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def run(scenario: Scenario[T], address: str = "127.0.0.1:0") -> T:
    async def whole() -> T:
        server = GrpcServer(address, [ECHO], Metrics("test"), grace_seconds=0)
        await server.start()
        limits = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ]
        try:
            async with grpc.aio.insecure_channel(server.bound, options=limits) as channel:
                return await scenario(server, channel)
        finally:
            await server.stop()

    return asyncio.run(whole())


def method(channel: grpc.aio.Channel, path: str) -> Callable[[bytes], Awaitable[bytes]]:
    return cast(Any, channel).unary_unary(path)


async def health(channel: grpc.aio.Channel, name: str) -> int:
    request = health_pb2.HealthCheckRequest(service=name).SerializeToString()
    answer = await method(channel, "/grpc.health.v1.Health/Check")(request)
    return health_pb2.HealthCheckResponse.FromString(answer).status


def test_health_of_the_server_and_of_each_service() -> None:
    async def scenario(server: GrpcServer, channel: grpc.aio.Channel) -> list[int]:
        before = [await health(channel, ""), await health(channel, NAME)]
        await server.set_serving(NAME, False)
        return [*before, await health(channel, ""), await health(channel, NAME)]

    assert run(scenario) == [SERVING, SERVING, SERVING, NOT_SERVING]


def test_services_are_not_ready_while_something_they_need_is_missing() -> None:
    missing = threading.Event()

    def need() -> None:
        if missing.is_set():
            raise Unavailable("the volume is gone", code="STORE_UNAVAILABLE", remedy="mount it")

    async def until(channel: grpc.aio.Channel, status: int) -> None:
        while await health(channel, NAME) != status:
            await asyncio.sleep(0.01)

    async def scenario(server: GrpcServer, channel: grpc.aio.Channel) -> int:
        async with asyncio.timeout(30), kept_up_to_date(server, [need], every_s=0.01):
            missing.set()
            await until(channel, NOT_SERVING)
            alive = await health(channel, "")
            missing.clear()
            await until(channel, SERVING)
            return alive

    assert run(scenario) == SERVING


def test_reflection_lists_the_services() -> None:
    async def scenario(_: GrpcServer, channel: grpc.aio.Channel) -> set[str]:
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = cast(Any, channel).stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        )
        async for part in call(iter([request.SerializeToString()])):
            answer = reflection_pb2.ServerReflectionResponse.FromString(part)
            return {service.name for service in answer.list_services_response.service}
        return set()

    assert {NAME, "grpc.health.v1.Health"} <= run(scenario)


def test_a_message_of_64_mib_passes_and_a_larger_one_does_not() -> None:
    async def scenario(_: GrpcServer, channel: grpc.aio.Channel) -> tuple[int, grpc.StatusCode]:
        echo = method(channel, f"/{NAME}/UnaryUnary")
        size = len(await echo(bytes(MAX_MESSAGE_BYTES)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await echo(bytes(MAX_MESSAGE_BYTES + 1024 * 1024))
        return size, caught.value.code()

    assert run(scenario) == (MAX_MESSAGE_BYTES, grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_a_method_takes_a_mebibyte_unless_its_service_says_otherwise() -> None:
    async def scenario(_: GrpcServer, channel: grpc.aio.Channel) -> grpc.StatusCode:
        parts = cast(Any, channel).stream_unary(f"/{NAME}/StreamUnary")
        assert len(await parts(iter([bytes(USUAL_BYTES)]))) == USUAL_BYTES
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await parts(iter([bytes(2 * USUAL_BYTES)]))
        return caught.value.code()

    assert run(scenario) is grpc.StatusCode.INVALID_ARGUMENT


def test_more_calls_than_allowed_are_refused_and_room_comes_back() -> None:
    async def whole() -> grpc.StatusCode:
        server = GrpcServer("127.0.0.1:0", [ECHO], Metrics("test"), grace_seconds=0, max_calls=2)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(server.bound) as channel:
                echo = method(channel, f"/{NAME}/UnaryUnary")
                open_calls = [await _opened(channel) for _ in range(2)]
                refused = await _code(echo)
                for each in open_calls:
                    each.cancel()
                while (code := await _code(echo)) is not grpc.StatusCode.OK:
                    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
                    await asyncio.sleep(0.01)
                return refused
        finally:
            await server.stop()

    assert asyncio.run(whole()) is grpc.StatusCode.RESOURCE_EXHAUSTED


async def _opened(channel: grpc.aio.Channel) -> Any:  # noqa: ANN401 - the stubs lack its type
    """A call that the server works on until it is cancelled."""
    call = cast(Any, channel).stream_stream(f"/{NAME}/StreamStream")()
    await call.write(b"x")
    assert await call.read() == b"x"
    return call


async def _code(echo: Callable[[bytes], Awaitable[bytes]]) -> grpc.StatusCode:
    try:
        await echo(b"x")
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_listens_on_a_unix_socket_and_never_takes_a_live_one(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/echo.sock"

    async def scenario(_: GrpcServer, channel: grpc.aio.Channel) -> bytes:
        second = GrpcServer(address, [ECHO], Metrics("second"))
        with pytest.raises(StartupError, match="another process listens there"):
            await second.start()
        await second.stop()
        return await method(channel, f"/{NAME}/UnaryUnary")(b"still here")

    assert run(scenario, address) == b"still here"


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        async def start() -> None:
            server = GrpcServer(f"127.0.0.1:{port}", [ECHO], Metrics("test"))
            try:
                await server.start()
            finally:
                await server.stop()

        with pytest.raises(StartupError, match=f"127.0.0.1:{port}: Address already in use"):
            asyncio.run(start())


def test_an_address_that_others_reach_is_refused_unless_insecure() -> None:
    async def make(address: str, insecure: bool) -> None:
        server = GrpcServer(address, [ECHO], Metrics("test"), insecure=insecure)
        await server.start()
        await server.stop()

    with pytest.raises(StartupError, match="no TLS") as caught:
        asyncio.run(make("0.0.0.0:0", insecure=False))
    assert "SAESERVE_INSECURE=true" in caught.value.remedy
    asyncio.run(make("0.0.0.0:0", insecure=True))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_running_calls(number: signal.Signals) -> None:
    async def scenario() -> bytes:
        server = GrpcServer("127.0.0.1:0", [ECHO], Metrics("test"), grace_seconds=10)
        await server.start()
        running = asyncio.ensure_future(server.run_until_stopped())
        async with grpc.aio.insecure_channel(server.bound) as channel:
            release = asyncio.Event()

            async def requests() -> AsyncIterator[bytes]:
                yield b"late"
                await release.wait()

            call = cast(Any, channel).stream_unary(f"/{NAME}/StreamUnary")
            answer = asyncio.ensure_future(call(requests()))
            await asyncio.sleep(0.1)
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.1)
            assert not running.done()
            release.set()
            result = await answer
            await running
            return result

    assert asyncio.run(scenario()) == b"late"
