"""The gRPC shell: read a request, call its handler, write the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import grpc.aio
from typing_extensions import override

from saeserve.inference import converters
from saeserve.inference.handlers import Handlers
from saeserve.inference.metrics import InferenceMetrics
from saeserve.platform.auth.rules import ENCODE, Rule
from saeserve.platform.grpc_server import MAX_MESSAGE_BYTES, Service
from saeserve.v1 import inference_service_pb2 as pb
from saeserve.v1 import inference_service_pb2_grpc as pb_grpc

NAME = "saeserve.v1.InferenceService"
RULES: dict[str, Rule] = dict.fromkeys(("Encode", "Decode", "Reconstruct"), ENCODE)
# Converting less than this costs less than handing it to a thread.
INLINE_BYTES = 256 * 1024

P = ParamSpec("P")
T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(pb_grpc.InferenceServiceServicer):
    """saeserve.v1.InferenceService."""

    def __init__(self, handlers: Handlers, metrics: InferenceMetrics) -> None:
        self._handlers = handlers
        self._metrics = metrics

    @override
    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:
        """Activations in, sparse features out."""
        query = await self._stage("parse", request.ByteSize(), converters.encode_query, request)
        answer = await self._handlers.encode(query.model, query.rows, _deadline(context))
        size = answer.features.nbytes
        return await self._stage("build", size, converters.encode_response, query, answer)

    @override
    async def Decode(self, request: pb.DecodeRequest, context: Context) -> pb.DecodeResponse:
        """Sparse features in, activations out."""
        query = await self._stage("parse", request.ByteSize(), converters.decode_query, request)
        deadline = _deadline(context)
        answer = await self._handlers.decode(query.model, query.rows, deadline, query.made_by)
        size = answer.activations.nbytes
        return await self._stage("build", size, converters.decode_response, query, answer)

    @override
    async def Reconstruct(
        self, request: pb.ReconstructRequest, context: Context
    ) -> pb.ReconstructResponse:
        """Activations in, reconstructions out."""
        size = request.ByteSize()
        query = await self._stage("parse", size, converters.reconstruct_query, request)
        answer = await self._handlers.reconstruct(query.model, query.rows, _deadline(context))
        size = answer.activations.nbytes
        return await self._stage("build", size, converters.reconstruct_response, query, answer)

    async def _stage(
        self,
        name: str,
        size: int,
        convert: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Convert `size` bytes, in a thread when that would hold up the loop."""
        started = time.perf_counter()
        try:
            if size <= INLINE_BYTES:
                return convert(*args, **kwargs)
            return await asyncio.to_thread(convert, *args, **kwargs)
        finally:
            self._metrics.stage.labels(name).observe(time.perf_counter() - started)


def inference_service(handlers: Handlers, metrics: InferenceMetrics) -> Service:
    """The service, to be added to a server."""
    servicer = InferenceServicer(handlers, metrics)
    return Service(
        NAME,
        lambda server: pb_grpc.add_InferenceServiceServicer_to_server(servicer, server),
        dict.fromkeys(RULES, MAX_MESSAGE_BYTES),
        RULES,
    )


def _deadline(context: Context) -> float | None:
    # The stubs forget that a call may have no deadline.
    remaining = cast("float | None", context.time_remaining())
    return None if remaining is None else time.monotonic() + remaining
