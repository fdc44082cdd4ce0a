"""One small hierarchy of service errors; each carries a kind, and each shell maps kinds itself."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class Kind(StrEnum):
    """What the caller can do about an error."""

    INVALID_INPUT = "invalid_input"
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission_denied"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    FAILED_PRECONDITION = "failed_precondition"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    DEADLINE_PASSED = "deadline_passed"
    INTERNAL = "internal"


class ServiceError(Exception):
    """An error meant for the caller: what was wrong (`field` says where) and what to do.

    `reason` is a stable upper-case word for programs (google.rpc.ErrorInfo.reason).
    """

    kind = Kind.INTERNAL

    def __init__(
        self, message: str, *, reason: str = "", field: str = "", remedy: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.kind.upper()
        self.field = field
        self.remedy = remedy

    def text(self) -> str:
        """Message and remedy as one sentence pair, for logs and status messages."""
        return f"{self.message} — {self.remedy}" if self.remedy else self.message


class InvalidInput(ServiceError):
    """The request itself is wrong; `violations` are (field, what is wrong there and what to do),
    where several fields are."""

    kind = Kind.INVALID_INPUT

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        field: str = "",
        remedy: str = "",
        violations: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message, reason=reason, field=field, remedy=remedy)
        self.violations = tuple(violations)


class Unauthenticated(ServiceError):
    """The call has no token, or one that is good no more."""

    kind = Kind.UNAUTHENTICATED


class PermissionDenied(ServiceError):
    """The caller is known, and may not do this."""

    kind = Kind.PERMISSION_DENIED


class NotFound(ServiceError):
    """The thing named does not exist."""

    kind = Kind.NOT_FOUND


class Conflict(ServiceError):
    """The name or request id is taken by something else."""

    kind = Kind.CONFLICT


class FailedPrecondition(ServiceError):
    """The request is right, but not in the state things are in."""

    kind = Kind.FAILED_PRECONDITION


class Overloaded(ServiceError):
    """A bounded queue is full; retry after `retry_after_s` seconds."""

    kind = Kind.OVERLOADED

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 0.1,
        reason: str = "QUEUE_FULL",
        field: str = "",
        remedy: str = "",
    ) -> None:
        super().__init__(message, reason=reason, field=field, remedy=remedy)
        self.retry_after_s = retry_after_s


class QuotaExceeded(ServiceError):
    """The caller holds as much as it may; waiting alone does not help."""

    kind = Kind.OVERLOADED


class Unavailable(ServiceError):
    """Something this service needs is out of reach; the same call may succeed later."""

    kind = Kind.UNAVAILABLE


class DeadlinePassed(ServiceError):
    """The caller's deadline passed before the work was begun."""

    kind = Kind.DEADLINE_PASSED


class StartupError(ServiceError):
    """The service cannot start: a setting, a port, a broker. Printed as one line, exit code 2."""

    kind = Kind.FAILED_PRECONDITION
