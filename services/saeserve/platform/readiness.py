"""Whether a service has what it needs: the health of its gRPC services, kept up to date.

Liveness is the process: health of the server as a whole ("") is SERVING while it runs. Readiness is
what calls also need, such as the artifact store: health of the gRPC services by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Sequence

from saeserve.errors import ServiceError
from saeserve.platform.grpc_server import GrpcServer

LOOK_EVERY_S = 5.0

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def kept_up_to_date(
    server: GrpcServer, needs: Sequence[Callable[[], None]], every_s: float = LOOK_EVERY_S
) -> AsyncGenerator[None]:
    """Within the block the health of `server`'s services follows `needs`, which raise ServiceError
    for what is missing. They run in a thread, one after the other."""
    task = asyncio.create_task(_follow(server, needs, every_s))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _follow(server: GrpcServer, needs: Sequence[Callable[[], None]], every_s: float) -> None:
    before = ""
    while True:
        missing = await asyncio.to_thread(what_is_missing, needs)
        if missing != before:
            log.warning("not ready: %s", missing) if missing else log.info("ready again")
            await server.set_ready(not missing)
            before = missing
        await asyncio.sleep(every_s)


def what_is_missing(needs: Sequence[Callable[[], None]]) -> str:
    """The first need's error in words; "" where all are met."""
    for need in needs:
        try:
            need()
        except ServiceError as error:
            return error.text()
    return ""
