"""What surrounds every call: it is let in, answered, counted once, and audited."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar, cast

import grpc
import grpc.aio

from saeserve.errors import ServiceError
from saeserve.platform.answers import Context, Outcome, answered, code_of, code_of_cancelled
from saeserve.platform.auditing import Auditor
from saeserve.platform.auth.caller import Caller, set_caller
from saeserve.platform.auth.guard import Admitted, Guard
from saeserve.platform.messages import MessageReader
from saeserve.platform.metrics import Metrics
from saeserve.platform.paths import PathCover
from saeserve.platform.request_ids import name_request
from saeserve.platform.requests import Requests
from saeserve.platform.status import NO_COVER

Request = TypeVar("Request")
Response = TypeVar("Response")
UNKNOWN_METHOD = "/other/other"


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Lets calls in by their tokens, maps errors to rich statuses and measures calls, of all four
    kinds."""

    def __init__(
        self,
        metrics: Metrics,
        reader: MessageReader,
        guard: Guard,
        auditor: Auditor,
        cover: PathCover = NO_COVER,
    ) -> None:
        self._metrics = metrics
        self._reader = reader
        self._guard = guard
        self._auditor = auditor
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

        around = partial(
            self._around, method, timed=not long, caller=admitted.caller, requests=requests
        )

        async def awaited(request: Any, context: Context) -> object:  # noqa: ANN401 - bytes, or an iterator of them
            set_caller(admitted.caller)
            async with around(context) as answers, watching():
                answers.append(await behaviour(read(request), context))
                return answers[0]

        async def iterated(request: Any, context: Context) -> AsyncIterator[object]:  # noqa: ANN401 - as above
            set_caller(admitted.caller)
            async with around(context), watching():
                async for response in behaviour(read(request), context):
                    yield response

        return make(
            iterated if inspect.isasyncgenfunction(behaviour) else awaited,
            request_deserializer=None,
            response_serializer=handler.response_serializer,
        )

    @asynccontextmanager
    async def _around(
        self,
        method: str,
        context: Context,
        *,
        timed: bool,
        caller: Caller | None = None,
        requests: Requests | None = None,
    ) -> AsyncGenerator[list[object]]:
        """Answers errors, counts the call, and audits it with what is put into the list."""
        name_request(context)
        started, outcome, answers = time.perf_counter(), Outcome(), list[object]()
        try:
            async with answered(method, context, self._cover, outcome):
                yield answers
            outcome.code = code_of(context)
        except grpc.aio.AbortError:
            outcome.code = code_of(context)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            outcome.code = code_of_cancelled(context)
            raise
        finally:
            self._count(method, outcome.code, time.perf_counter() - started if timed else None)
            answer = answers[0] if answers else None
            await self._auditor.note(method, caller, context, requests, answer, outcome)

    def _count(self, method: str, code: grpc.StatusCode, seconds: float | None = None) -> None:
        service, _, name = method.lstrip("/").partition("/")
        self._metrics.grpc_requests.labels(service, name, code.name).inc()
        if seconds is not None:
            self._metrics.grpc_seconds.labels(service, name).observe(seconds)


def _kind(handler: grpc.RpcMethodHandler[Any, Any]) -> str:
    request = "stream" if handler.request_streaming else "unary"
    response = "stream" if handler.response_streaming else "unary"
    return f"{request}_{response}"
