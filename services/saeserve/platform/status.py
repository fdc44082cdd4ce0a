"""Errors as gRPC answers: kind to status code, with google.rpc details (AIP-193)."""

from __future__ import annotations

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from redis.exceptions import RedisError

from saeserve.errors import InvalidInput, Kind, Overloaded, SaeserveError, ServiceError, SpecError
from saeserve.platform.exhaustion import exhausted, overloaded
from saeserve.platform.paths import PathCover
from saeserve.platform.redis import unavailable

DOMAIN = "saeserve"
NO_COVER = PathCover({})
# Details travel in trailing metadata, which peers limit to 8 KiB.
MAX_TEXT = 1000
MAX_TEXT_OF_SEVERAL = 160
MAX_VIOLATIONS = 16

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


def service_error(error: Exception) -> SaeserveError | None:
    """`error` as one meant for the caller; None when it is not."""
    if isinstance(error, ServiceError):
        return error
    if (memory := exhausted(error)) is not None:
        return overloaded(memory, "this request")
    if isinstance(error, SpecError):
        return refused_spec(error)
    if isinstance(error, SaeserveError):
        return error
    return unavailable(error) if isinstance(error, RedisError) else None


def refused_spec(error: SpecError) -> InvalidInput:
    """The refusal of a spec that has this error, or these."""
    if len(error.parts) == 1:
        return InvalidInput(error.message, code=error.code, field=error.field, remedy=error.remedy)
    violations = [
        (part.field, f"{part.message} — {part.remedy}" if part.remedy else part.message)
        for part in error.parts
    ]
    told = "; ".join(text for _, text in violations)
    return InvalidInput(
        f"the spec has {len(violations)} errors: {told}",
        code=error.code,
        field=violations[0][0],
        violations=violations,
    )


def rpc_status(error: SaeserveError, cover: PathCover = NO_COVER) -> status_pb2.Status:
    """Status with ErrorInfo, and BadRequest or RetryInfo where they apply; its texts show no
    folder that `cover` knows."""
    code, _ = CODES[error.kind].value
    status = status_pb2.Status(code=code, message=_clip(cover.covered(error.text())))
    for detail in _details(error, cover):
        status.details.add().Pack(detail)
    return status


def _details(error: SaeserveError, cover: PathCover) -> list[Message]:
    facts = {"field": error.field, "remedy": cover.covered(error.remedy)}
    info = error_details_pb2.ErrorInfo(
        reason=error.code,
        domain=DOMAIN,
        metadata={key: _clip(value) for key, value in facts.items() if value},
    )
    details: list[Message] = [info]
    if error.field and isinstance(error, InvalidInput):
        details.append(_bad_request(error, cover))
    if isinstance(error, Overloaded):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        details.append(retry)
    return details


def _bad_request(error: InvalidInput, cover: PathCover) -> error_details_pb2.BadRequest:
    most = MAX_TEXT if len(error.violations) < 2 else MAX_TEXT_OF_SEVERAL
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=_clip(field, most), description=_clip(cover.covered(text), most)
            )
            for field, text in error.violations[:MAX_VIOLATIONS] or [(error.field, error.message)]
        ]
    )


def _clip(text: str, most: int = MAX_TEXT) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
