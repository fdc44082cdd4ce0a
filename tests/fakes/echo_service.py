"""A service of all call kinds whose methods do what their request says, over plain bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from saeserve.errors import (
    Conflict,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    Overloaded,
    SpecError,
    Unavailable,
)
from saeserve.platform.grpc_server import MAX_MESSAGE_BYTES, Service

NAME = "test.Echo"
Context = grpc.aio.ServicerContext[Any, Any]

ERRORS: dict[bytes, Exception] = {
    b"invalid": InvalidInput("rows are missing", field="activations.shape", remedy="send rows"),
    b"not_found": NotFound("no model 'a'", remedy="list the models"),
    b"conflict": Conflict("taken"),
    b"precondition": FailedPrecondition("not ready", code="STILL_TRAINING"),
    b"overloaded": Overloaded("4096 rows wait", retry_after_s=0.25),
    b"unavailable": Unavailable("the store is gone"),
    b"spec": SpecError("train.topk.k", "must be at most d_sae", remedy="lower k"),
    b"unforeseen": ValueError("secret text"),
    b"long": InvalidInput("x" * 50_000, field="f" * 50_000),
}


async def act(request: bytes) -> bytes:
    """Raise what the request names, wait for ever on b"sleep", or give the request back."""
    if request in ERRORS:
        raise ERRORS[request]
    if request == b"sleep":
        await asyncio.Event().wait()
    return request


async def unary_unary(request: bytes, context: Context) -> bytes:
    return await act(request)


async def unary_stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
    yield b"first"
    yield await act(request)


async def unary_writer(request: bytes, context: Context) -> None:
    await context.write(b"first")
    await context.write(await act(request))


async def stream_unary(requests: AsyncIterator[bytes], context: Context) -> bytes:
    return b"".join([await act(request) async for request in requests])


async def stream_stream(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    async for request in requests:
        yield await act(request)


async def aborting(request: bytes, context: Context) -> bytes:
    await context.abort(grpc.StatusCode.DATA_LOSS, "gone")


def _add(server: grpc.aio.Server) -> None:
    # The stubs know the synchronous server's handlers only.
    make: Any = grpc
    handlers = {
        "UnaryUnary": make.unary_unary_rpc_method_handler(unary_unary),
        "UnaryStream": make.unary_stream_rpc_method_handler(unary_stream),
        "UnaryWriter": make.unary_stream_rpc_method_handler(unary_writer),
        "StreamUnary": make.stream_unary_rpc_method_handler(stream_unary),
        "StreamStream": make.stream_stream_rpc_method_handler(stream_stream),
        "Aborting": make.unary_unary_rpc_method_handler(aborting),
    }
    server.add_generic_rpc_handlers((make.method_handlers_generic_handler(NAME, handlers),))


ECHO = Service(NAME, _add, {"UnaryUnary": MAX_MESSAGE_BYTES})
