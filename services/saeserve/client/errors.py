"""Errors of the SDK: what the server said was wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


class ClientError(Exception):
    """Any refusal of a call, by the server or before anything is sent.

    `code` is gRPC's name for the kind of error, `reason` a stable word for this one, `field` names
    what was wrong, `remedy` says what to do. Where several fields are wrong, `violations` has each
    with what is wrong there.

    >>> try:
    ...     client.models.get("no-such-model")
    ... except ClientError as error:
    ...     print(error.code, error.message, error.remedy)
    """

    CODE = "UNKNOWN"
    """The code of errors that the SDK itself raises."""

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        reason: str = "",
        field: str = "",
        remedy: str = "",
        retry_after_s: float = 0.0,
        violations: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(f"{message} — {remedy}" if remedy and remedy not in message else message)
        self.message = message
        self.code = code or self.CODE
        self.reason = reason
        self.field = field
        self.remedy = remedy
        self.retry_after_s = retry_after_s
        self.violations = tuple(violations)


class InvalidArgumentError(ClientError):
    """The request itself is wrong."""

    CODE = "INVALID_ARGUMENT"


class UnauthenticatedError(ClientError):
    """The call had no token, or one that is good no more."""

    CODE = "UNAUTHENTICATED"


class PermissionDeniedError(ClientError):
    """The token does not allow this."""

    CODE = "PERMISSION_DENIED"


class NotFoundError(ClientError):
    """What was named does not exist."""

    CODE = "NOT_FOUND"


class AlreadyExistsError(ClientError):
    """The name or request id is taken by something else."""

    CODE = "ALREADY_EXISTS"


class PreconditionError(ClientError):
    """The request is right, but not in the state things are in."""

    CODE = "FAILED_PRECONDITION"


class OverloadedError(ClientError):
    """The server's queue is full; try again after `retry_after_s` seconds."""

    CODE = "RESOURCE_EXHAUSTED"


class UnavailableError(ClientError):
    """The server, or something it needs, is out of reach."""

    CODE = "UNAVAILABLE"


class DeadlineError(ClientError):
    """The call's time ran out."""

    CODE = "DEADLINE_EXCEEDED"


class DataLossError(ClientError):
    """Stored bytes are not what they should be."""

    CODE = "DATA_LOSS"


_BY_CODE: dict[str, type[ClientError]] = {kind.CODE: kind for kind in ClientError.__subclasses__()}


_NO_ANSWER_REMEDY = (
    "start the service (saeserve up) or correct the address; of a server with TLS, give the CA"
)
_TLS_REMEDY = (
    "give the CA of the server's certificate, an address that stands in it, and, where the server "
    "asks for one, a certificate of your own that has not expired"
)
_HANDSHAKE_WORDS = ("handshake", "certificate", "verification", "ssl")


@contextmanager
def translated(address: str) -> Generator[None]:
    """Raise the server's refusals as ClientError; `address` names the server in the text."""
    try:
        yield
    except grpc.RpcError as error:
        raise client_error(error, address) from error


def client_error(error: grpc.RpcError, address: str) -> ClientError:
    """Read google.rpc details, where the server sent any, into a typed error."""
    call = cast(grpc.Call, error)
    code = call.code().name
    message = call.details() or code
    reason, field, remedy, retry, violations = _details(call)
    if code == "UNAVAILABLE" and not reason:
        message = f"no answer from {address}: {message}"
        remedy = _TLS_REMEDY if _handshake_failed(message) else _NO_ANSWER_REMEDY
    elif code == "UNIMPLEMENTED" and not reason:
        message = f"the server at {address} does not know this call: {message}"
        remedy = (
            "correct the addresses: Client(control=…, inference=…), or SAESERVE_CONTROL_ADDRESS "
            "and SAESERVE_INFERENCE_ADDRESS; an older server lacks newer calls"
        )
    kind = _BY_CODE.get(code, ClientError)
    return kind(
        message,
        code=code,
        reason=reason,
        field=field,
        remedy=remedy,
        retry_after_s=retry,
        violations=violations,
    )


def _handshake_failed(message: str) -> bool:
    return any(word in message.lower() for word in _HANDSHAKE_WORDS)


def _details(call: grpc.Call) -> tuple[str, str, str, float, list[tuple[str, str]]]:
    """(reason, field, remedy, retry seconds, violations of several fields) from the status
    details."""
    reason = field = remedy = ""
    retry = 0.0
    violations: list[tuple[str, str]] = []
    status = rpc_status.from_call(call)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        delay, bad = error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
            field, remedy = info.metadata.get("field", ""), info.metadata.get("remedy", "")
        elif detail.Unpack(delay):
            retry = delay.retry_delay.ToTimedelta().total_seconds()
        elif detail.Unpack(bad) and len(bad.field_violations) > 1:
            violations = [(each.field, each.description) for each in bad.field_violations]
    return reason, field, remedy, retry, violations
