"""saeserve.v1.StoreService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from typing_extensions import override

from saeserve.control.handlers.garbage import Garbage, Swept
from saeserve.control.servicers.context import Context
from saeserve.errors import InvalidInput, Overloaded
from saeserve.platform.auth.rules import ADMINISTER
from saeserve.platform.grpc_server import Service
from saeserve.v1 import store_service_pb2 as pb
from saeserve.v1 import store_service_pb2_grpc as pb_grpc

NAME = "saeserve.v1.StoreService"
RULES = {"CollectGarbage": ADMINISTER}
_LOOK_AGAIN_S = 5.0


class StoreServicer(pb_grpc.StoreServiceServicer):
    """Looks through the store in threads, one find after the other."""

    def __init__(self, garbage: Garbage) -> None:
        self._garbage = garbage
        self._looking = False

    @override
    async def CollectGarbage(
        self, request: pb.CollectGarbageRequest, context: Context
    ) -> AsyncIterator[pb.CollectGarbageResponse]:
        """List what can go and what will, and remove what can when asked to."""
        swept = self._garbage.sweep(execute=request.execute, checkpoint_s=_seconds(request))
        if self._looking:
            raise Overloaded(
                "another call is looking through the store",
                retry_after_s=_LOOK_AGAIN_S,
                code="BUSY",
                remedy="call again when it has ended",
            )
        self._looking = True
        try:
            while (found := await asyncio.to_thread(next, swept, None)) is not None:
                yield _message(found)
        finally:
            self._looking = False


def store_service(servicer: StoreServicer) -> Service:
    """The service, to be added to a server."""
    return Service(
        NAME,
        lambda server: pb_grpc.add_StoreServiceServicer_to_server(servicer, server),
        rules=RULES,
    )


def _seconds(request: pb.CollectGarbageRequest) -> float | None:
    if not request.HasField("checkpoint_seconds"):
        return None
    if not request.checkpoint_seconds >= 0:
        raise InvalidInput(
            f"{request.checkpoint_seconds} is not an age in seconds",
            field="checkpoint_seconds",
            remedy="give 0 or more",
        )
    return request.checkpoint_seconds


def _message(swept: Swept) -> pb.CollectGarbageResponse:
    found = swept.leftover
    return pb.CollectGarbageResponse(
        path=found.key,
        bytes=found.bytes,
        why=found.why,
        kept=found.kept,
        removed=swept.removed,
        error=swept.error,
    )
