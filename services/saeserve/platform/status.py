"""Errors as gRPC answers: kind to status code, with google.rpc details (AIP-193)."""

from __future__ import annotations

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from redis.exceptions import RedisError

from saeserve.core.errors import DataError, NoSpaceError, SaeError, SpecError
from saeserve.platform.errors import (
    FailedPrecondition,
    InvalidInput,
    Kind,
    Overloaded,
    ServiceError,
    Unavailable,
)
from saeserve.platform.exhaustion import exhausted, overloaded
from saeserve.platform.paths import PathCover
from saeserve.platform.redis import unavailable

DOMAIN = "saeserve"
NO_COVER = PathCover({})
# Details travel in trailing metadata, which peers limit to 8 KiB.
MAX_TEXT = 1000

CODES = {
    Kind.INVALID_INPUT: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Kind.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Kind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.CONFLICT: grpc.StatusCode.ALREADY_EXISTS,
    Kind.FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Kind.DEADLINE_PASSED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Kind.INTERNAL: grpc.StatusCode.INTERNAL,
}


def service_error(error: Exception) -> ServiceError | None:
    """`error` as one meant for the caller; None when it is not."""
    if isinstance(error, ServiceError):
        return error
    if (memory := exhausted(error)) is not None:
        return overloaded(memory, "this request")
    match error:
        case SpecError():
            return InvalidInput(
                error.message, reason=error.code, field=error.field, remedy=error.remedy
            )
        case DataError():
            return InvalidInput(error.message, reason=error.code, remedy=error.remedy)
        case NoSpaceError():
            return Unavailable(error.message, reason=error.code, remedy=error.remedy)
        case SaeError():
            return FailedPrecondition(error.message, reason=error.code, remedy=error.remedy)
        case RedisError():
            return unavailable(error)
        case _:
            return None


def rpc_status(error: ServiceError, cover: PathCover = NO_COVER) -> status_pb2.Status:
    """Status with ErrorInfo, and BadRequest or RetryInfo where they apply; its texts show no
    folder that `cover` knows."""
    code, _ = CODES[error.kind].value
    status = status_pb2.Status(code=code, message=_clip(cover.covered(error.text())))
    for detail in _details(error, cover):
        status.details.add().Pack(detail)
    return status


def _details(error: ServiceError, cover: PathCover) -> list[Message]:
    facts = {"field": error.field, "remedy": cover.covered(error.remedy)}
    info = error_details_pb2.ErrorInfo(
        reason=error.reason,
        domain=DOMAIN,
        metadata={key: _clip(value) for key, value in facts.items() if value},
    )
    details: list[Message] = [info]
    if error.field and error.kind is Kind.INVALID_INPUT:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_clip(error.field), description=_clip(cover.covered(error.message))
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, Overloaded):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(retry)
    return details


def _clip(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
