"""Errors of handlers become gRPC answers, and ended calls have a status code."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import grpc
import grpc.aio
from google.rpc import status_pb2
from grpc_status import rpc_status as rich_status

from saeserve.errors import SaeError, ServiceError
from saeserve.platform.paths import PathCover
from saeserve.platform.status import rpc_status, service_error

log = logging.getLogger(__name__)
# The stubs leave this one untyped.
to_status = cast("Callable[[status_pb2.Status], grpc.Status]", rich_status.to_status)

Context = grpc.aio.ServicerContext[Any, Any]
# A caller's own timer ends a call this much before the deadline that we see.
_TRANSIT_S = 0.05
_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass
class Outcome:
    """How a call ended: its status code, and the reason of an error."""

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    reason: str = ""


@asynccontextmanager
async def answered(
    method: str, context: Context, cover: PathCover, outcome: Outcome
) -> AsyncGenerator[None]:
    """Abort the call with what the error says; the text of an unforeseen one stays here."""
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except Exception as error:
        answer = service_error(error) or _unforeseen(method, error)
        status = rpc_status(answer, cover)
        # Noted first: the abort is cut off, or fails, where the caller is gone by now.
        outcome.code, outcome.reason = _CODES[status.code], answer.code
        await context.abort_with_status(to_status(status))


def code_of(context: Context) -> grpc.StatusCode:
    """The status code of a call that ended."""
    # Before an abort or set_code, grpc.aio says 0 or None for OK.
    code = cast(object, context.code())
    if isinstance(code, grpc.StatusCode):
        return code
    return _CODES[code] if isinstance(code, int) else grpc.StatusCode.OK


def code_of_cancelled(context: Context) -> grpc.StatusCode:
    """Why a call was cancelled: by its caller, or by its deadline. One that was being refused has
    the code of that answer, which its caller may have already."""
    if (given := code_of(context)) is not grpc.StatusCode.OK:
        return given
    remaining = cast("float | None", context.time_remaining())
    late = remaining is not None and remaining <= _TRANSIT_S
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


def _unforeseen(method: str, error: Exception) -> ServiceError:
    error_id = uuid.uuid4().hex
    log.error("%s failed, error id %s", method, error_id, exc_info=error)
    return ServiceError(
        f"internal error {error_id}",
        code=SaeError.code,
        remedy="give this id to the operator, whose log has the cause",
    )
