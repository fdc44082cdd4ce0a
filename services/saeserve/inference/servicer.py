"""The gRPC shell: read a request, call its handler, write the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import grpc.aio
from typing_extensions import override

from saeserve.inference.converters import features, matching, rows
from saeserve.inference.feature_handlers import FeatureHandlers
from saeserve.inference.handlers import Handlers
from saeserve.inference.match_handlers import MatchHandlers
from saeserve.inference.metrics import InferenceMetrics
from saeserve.inference.tensors import data_bytes
from saeserve.platform.auth.rules import ENCODE, LOOK, Rule
from saeserve.platform.grpc_server import MAX_MESSAGE_BYTES, Service
from saeserve.v1 import inference_service_pb2 as pb
from saeserve.v1 import inference_service_pb2_grpc as pb_grpc

NAME = "saeserve.v1.InferenceService"
METHODS = ("Encode", "Decode", "Reconstruct", "Steer", "Neighbours", "MatchFeatures", "TopFeatures")
# Matches say of models what FeatureService says, to the same callers: the explorer's have `read`.
RULES: dict[str, Rule] = dict.fromkeys(METHODS, ENCODE) | {"MatchFeatures": LOOK}
INLINE_BYTES = 2 * 2**20
"""Converting less than this takes the event loop less than a millisecond. A thread would have to
wait for the interpreter's lock, which a busy loop gives away every `SWITCH_SECONDS` only, and again
after each operation of numpy, which lets go of it."""

P = ParamSpec("P")
T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(pb_grpc.InferenceServiceServicer):
    """saeserve.v1.InferenceService."""

    def __init__(
        self,
        handlers: Handlers,
        looking: FeatureHandlers,
        matches: MatchHandlers,
        metrics: InferenceMetrics,
        as_sent: bool,
    ) -> None:
        """`as_sent`: the engine takes activations in the types of the wire."""
        self._handlers = handlers
        self._looking = looking
        self._matches = matches
        self._metrics = metrics
        self._as_sent = as_sent

    @override
    async def Encode(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:
        """Activations in, sparse features out."""
        size, read = data_bytes(request.activations), rows.encode_query
        query = await self._stage("parse", size, read, request, self._as_sent)
        answer = await self._handlers.encode(query.model, query.rows, _deadline(context))
        size = answer.features.nbytes
        return await self._stage("build", size, rows.encode_response, query, answer)

    @override
    async def Decode(self, request: pb.DecodeRequest, context: Context) -> pb.DecodeResponse:
        """Sparse features in, activations out."""
        size = request.ByteSize()
        query = await self._stage("parse", size, rows.decode_query, request)
        deadline = _deadline(context)
        answer = await self._handlers.decode(query.model, query.rows, deadline, query.made_by)
        size = answer.activations.nbytes
        return await self._stage("build", size, rows.decode_response, query, answer)

    @override
    async def Reconstruct(
        self, request: pb.ReconstructRequest, context: Context
    ) -> pb.ReconstructResponse:
        """Activations in, reconstructions out."""
        size, read = data_bytes(request.activations), rows.reconstruct_query
        query = await self._stage("parse", size, read, request, self._as_sent)
        answer = await self._handlers.reconstruct(query.model, query.rows, _deadline(context))
        size = answer.activations.nbytes
        return await self._stage("build", size, rows.reconstruct_response, query, answer)

    @override
    async def Steer(self, request: pb.SteerRequest, context: Context) -> pb.SteerResponse:
        """Activations in, steered activations out."""
        size, read = data_bytes(request.activations), features.steer_query
        query = await self._stage("parse", size, read, request, self._as_sent)
        answer = await self._looking.steer(query.model, query.steering, _deadline(context))
        size = answer.activations.nbytes
        return await self._stage("build", size, features.steer_response, query, answer)

    @override
    async def Neighbours(
        self, request: pb.NeighboursRequest, context: Context
    ) -> pb.NeighboursResponse:
        """Features in, the nearest ones of each out."""
        query = features.neighbours_query(request)
        resource, found = await self._looking.neighbours(query.model, query.features, query.count)
        return features.neighbours_response(query, resource, found)

    @override
    async def MatchFeatures(
        self, request: pb.MatchFeaturesRequest, context: Context
    ) -> pb.MatchFeaturesResponse:
        """Two models in, the nearest feature of the one for those of the other out."""
        answer = await self._matches.match(*matching.match_query(request))
        return matching.match_response(answer)

    @override
    async def TopFeatures(
        self, request: pb.TopFeaturesRequest, context: Context
    ) -> pb.TopFeaturesResponse:
        """Activations in, the most active features out."""
        size, read = data_bytes(request.activations), features.top_query
        query = await self._stage("parse", size, read, request, self._as_sent)
        answer = await self._looking.top_features(
            query.model, query.rows, query.count, query.order, _deadline(context)
        )
        return features.top_response(query, answer)

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


def inference_service(
    handlers: Handlers,
    looking: FeatureHandlers,
    matches: MatchHandlers,
    metrics: InferenceMetrics,
    as_sent: bool = False,
) -> Service:
    """The service, to be added to a server; `as_sent` as in InferenceServicer."""
    servicer = InferenceServicer(handlers, looking, matches, metrics, as_sent)
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
