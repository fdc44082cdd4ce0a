"""What surrounds every call: errors become answers, and each call is counted once."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
from google.rpc import status_pb2
from grpc_status import rpc_status as rich_status

from saeserve.platform.auth.caller import set_caller
from saeserve.platform.auth.guard import Admitted, Guard
from saeserve.platform.errors import ServiceError
from saeserve.platform.messages import MessageReader
from saeserve.platform.metrics import Metrics
from saeserve.platform.paths import PathCover
from saeserve.platform.requests import Requests
from saeserve.platform.status import NO_COVER, rpc_status, service_error

log = logging.getLogger(__name__)
# The stubs leave this one untyped.
to_status = cast("Callable[[status_pb2.Status], grpc.Status]", rich_status.to_status)

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request")
Response = TypeVar("Response")
UNKNOWN_METHOD = "/other/other"
# A caller's own timer ends a call this much before the deadline that we see.
_TRANSIT_S = 0.05
_CODES = {code.value[0]: code for code in grpc.StatusCode}


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Lets calls in by their tokens, maps errors to rich statuses and measures calls, of all four
    kinds."""

    def __init__(
        self, metrics: Metrics, reader: MessageReader, guard: Guard, cover: PathCover = NO_COVER
    ) -> None:
        self._metrics = metrics
        self._reader = reader
        self._guard = guard
        self._cover = cover

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails],
            Awaitable[grpc.RpcMethodHandler[Request, Response] | None],
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Request, Response] | None:
        """Wrap the handler of the call; an unknown method has none and is only counted."""
        handler = await continuation(handler_call_details)
        if handler is None:
            # Callers choose these names; one label for all keeps the series bounded.
            self._count(UNKNOWN_METHOD, grpc.StatusCode.UNIMPLEMENTED)
            return None
        method, metadata = handler_call_details.method, handler_call_details.invocation_metadata
        try:
            admitted = await self._guard.admit(method, metadata)
        except ServiceError as error:
            return self._refusing(method, error)
        return self._wrapped(handler, method, admitted)

    def _refusing(self, method: str, error: ServiceError) -> Any:  # noqa: ANN401 - handlers of any type
        """Answers with `error`. As for a stream of requests: those are not read before."""

        async def refuse(_: object, context: Context) -> None:
            async with self._around(method, context, timed=False):
                raise error

        return cast(Any, grpc).stream_unary_rpc_method_handler(refuse)

    def _wrapped(
        self, handler: grpc.RpcMethodHandler[Request, Response], method: str, admitted: Admitted
    ) -> grpc.RpcMethodHandler[Request, Response]:
        # The stubs type these as the synchronous server's; grpc.aio takes coroutines as well.
        kind = _kind(handler)
        behaviour = getattr(handler, kind)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        # Read here rather than by gRPC, which answers UNKNOWN and logs a traceback when it cannot.
        requests = Requests(self._reader, method, handler.request_deserializer, admitted.usage)
        read = partial(requests.into, streaming=handler.request_streaming)
        long = handler.request_streaming or handler.response_streaming
        watching = partial(self._guard.watching, admitted) if long else nullcontext

        async def awaited(request: Any, context: Context) -> object:  # noqa: ANN401 - bytes, or an iterator of them
            set_caller(admitted.caller)
            async with self._around(method, context, timed=not long), watching():
                return await behaviour(read(request), context)

        async def iterated(request: Any, context: Context) -> AsyncIterator[object]:  # noqa: ANN401 - as above
            set_caller(admitted.caller)
            async with self._around(method, context, timed=not long), watching():
                async for response in behaviour(read(request), context):
                    yield response

        return make(
            iterated if inspect.isasyncgenfunction(behaviour) else awaited,
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )

    @asynccontextmanager
    async def _around(self, method: str, context: Context, *, timed: bool) -> AsyncGenerator[None]:
        started = time.perf_counter()
        code = grpc.StatusCode.UNKNOWN
        try:
            async with _answered(method, context, self._cover):
                yield
            code = _code(context)
        except grpc.aio.AbortError:
            code = _code(context)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            code = _cancelled(context)
            raise
        finally:
            self._count(method, code, time.perf_counter() - started if timed else None)

    def _count(self, method: str, code: grpc.StatusCode, seconds: float | None = None) -> None:
        service, _, name = method.lstrip("/").partition("/")
        self._metrics.grpc_requests.labels(service, name, code.name).inc()
        if seconds is not None:
            self._metrics.grpc_seconds.labels(service, name).observe(seconds)


@asynccontextmanager
async def _answered(method: str, context: Context, cover: PathCover) -> AsyncGenerator[None]:
    """Abort the call with what the error says; the text of an unforeseen one stays here."""
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        answer = service_error(error) or _unforeseen(method, error)
        await context.abort_with_status(to_status(rpc_status(answer, cover)))


def _unforeseen(method: str, error: Exception) -> ServiceError:
    error_id = uuid.uuid4().hex
    log.error("%s failed, error id %s", method, error_id, exc_info=error)
    return ServiceError(
        f"internal error {error_id}",
        reason="INTERNAL",
        remedy="give this id to the operator, whose log has the cause",
    )


def _code(context: Context) -> grpc.StatusCode:
    # Before an abort or set_code, grpc.aio says 0 or None for OK.
    code = cast(object, context.code())
    if isinstance(code, grpc.StatusCode):
        return code
    return _CODES[code] if isinstance(code, int) else grpc.StatusCode.OK


def _cancelled(context: Context) -> grpc.StatusCode:
    remaining = cast("float | None", context.time_remaining())
    late = remaining is not None and remaining <= _TRANSIT_S
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


def _kind(handler: grpc.RpcMethodHandler[Any, Any]) -> str:
    request = "stream" if handler.request_streaming else "unary"
    response = "stream" if handler.response_streaming else "unary"
    return f"{request}_{response}"
