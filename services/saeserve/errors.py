"""Every error that is raised on purpose: what was wrong, where, and what to do about it.

    SaeserveError
    ├── SaeError                science: a spec, data, a model or a file that cannot be used
    │   ├── SpecError           a field of a spec
    │   │   └── SpecErrors      several fields of a spec
    │   ├── DataError           a shard or a row
    │   ├── DataMismatchError   data, model and spec that do not belong together
    │   ├── DivergedError       training left the finite numbers
    │   ├── CheckpointError     a damaged checkpoint
    │   ├── FormatError         a persistent form that is not read
    │   │   └── DamagedError    a stored file whose bytes have changed
    │   └── NoSpaceError        a full disk
    └── ServiceError            services: one class for each kind of refusal
        ├── InvalidInput · Unauthenticated · PermissionDenied · NotFound · Conflict
        ├── FailedPrecondition · Overloaded · QuotaExceeded · Unavailable · DeadlinePassed
        └── StartupError        a service cannot start

This module imports nothing of ours, and everything may import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Self


class Kind(StrEnum):
    """What the caller can do about an error; each shell (gRPC, CLI) maps kinds itself."""

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


_RETRYABLE = frozenset({Kind.UNAVAILABLE, Kind.OVERLOADED})


class SaeserveError(Exception):
    """Base of all: a `kind`, a `code`, where it was (`field`), and what to do (`remedy`).

    `code` is a stable upper-case word for programs (google.rpc.ErrorInfo.reason, JobError.code),
    `field` a path into the spec or request, `remedy` a sentence for the person who reads it.
    """

    kind = Kind.INTERNAL
    code = ""

    def __init__(self, message: str, *, code: str = "", field: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code or self.kind.upper()
        self.field = field
        self.remedy = remedy

    @property
    def retryable(self) -> bool:
        """Whether the same input may succeed another time."""
        return self.kind in _RETRYABLE

    def text(self) -> str:
        """Message and remedy as one sentence pair, for logs and status messages."""
        return f"{self.message} — {self.remedy}" if self.remedy else self.message

    def under(self, field: str) -> Self:
        """The same error, with `field` before its own: "k" under "train.topk" is "train.topk.k".

        An error that names no field is about `field` itself.
        """
        self.field = f"{field}.{self.field}" if self.field else field
        return self


class SaeError(SaeserveError):
    """Base of the science's errors."""

    kind = Kind.FAILED_PRECONDITION
    code = "INTERNAL"


class SpecError(SaeError):
    """A spec that cannot be run. `field` is its path, e.g. ``train.topk.k``."""

    kind = Kind.INVALID_INPUT
    code = "INVALID_SPEC"

    def __init__(self, field: str, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{field}: {message}", field=field, remedy=remedy)

    @property
    def parts(self) -> tuple[SpecError, ...]:
        """The errors that this one consists of: itself, unless it is of several fields."""
        return (self,)


class SpecErrors(SpecError):
    """Several errors of one spec. `field` is that of the first, `message` names them all."""

    def __init__(self, errors: Sequence[SpecError]) -> None:
        self._parts = tuple(part for error in errors for part in error.parts)
        message = "; ".join(part.message for part in self._parts)
        remedy = "; ".join(dict.fromkeys(part.remedy for part in self._parts if part.remedy))
        SaeError.__init__(self, message, field=self._parts[0].field, remedy=remedy)

    @property
    def parts(self) -> tuple[SpecError, ...]:
        """The errors, each of one field."""
        return self._parts

    def under(self, field: str) -> Self:
        """The same errors, each with `field` before its own."""
        self._parts = tuple(part.under(field) for part in self._parts)
        return super().under(field)


class DataError(SaeError):
    """Activations that cannot be used; names the shard and, where it is known, the row."""

    kind = Kind.INVALID_INPUT
    code = "BAD_DATA"

    def __init__(
        self, message: str, *, shard: str = "", row: int | None = None, remedy: str = ""
    ) -> None:
        where = shard + ("" if row is None else f", row {row}")
        super().__init__(f"{where}: {message}" if where else message, remedy=remedy)
        self.shard = shard
        self.row = row


class DataMismatchError(SaeError):
    """Data, model and spec that do not belong together (width, source, language model)."""

    code = "DATA_MISMATCH"


class DivergedError(SaeError):
    """Training left the finite numbers at `step`."""

    code = "DIVERGED_NAN"

    def __init__(self, step: int, message: str, *, remedy: str = "") -> None:
        super().__init__(f"step {step}: {message}", remedy=remedy)
        self.step = step


class CheckpointError(SaeError):
    """A checkpoint that is damaged or was written by another form of the program."""

    code = "CKPT_CORRUPT"


class FormatError(SaeError):
    """A persistent form that this release does not read."""

    code = "BAD_FORMAT"


class DamagedError(FormatError):
    """A stored file whose bytes are not those that were written."""

    code = DataError.code


class NoSpaceError(SaeError):
    """The disk is full, or would be."""

    kind = Kind.UNAVAILABLE
    code = "DISK_FULL"


class ServiceError(SaeserveError):
    """Base of the services' errors, which are meant for the caller."""


class InvalidInput(ServiceError):
    """The request itself is wrong; `violations` are (field, what is wrong there and what to do),
    where several fields are."""

    kind = Kind.INVALID_INPUT

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        field: str = "",
        remedy: str = "",
        violations: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message, code=code, field=field, remedy=remedy)
        self.violations = tuple(violations)


class Unauthenticated(ServiceError):
    """The call has no token, or one that is no longer good."""

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
    code = "QUEUE_FULL"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float = 0.1,
        code: str = "",
        field: str = "",
        remedy: str = "",
    ) -> None:
        super().__init__(message, code=code, field=field, remedy=remedy)
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
