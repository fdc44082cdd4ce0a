"""What the SDK refuses before anything is sent: one function for each reason."""

from __future__ import annotations

from collections.abc import Sequence

from saeserve.client.errors import (
    DataLossError,
    DeadlineError,
    InvalidArgumentError,
    PreconditionError,
)


def bad_shape(message: str, *, field: str, remedy: str) -> InvalidArgumentError:
    """The error for an array whose axes do not fit."""
    return InvalidArgumentError(message, reason="BAD_SHAPE", field=field, remedy=remedy)


def bad_type(message: str, *, field: str, remedy: str) -> InvalidArgumentError:
    """The error for values of a type that is not taken."""
    return InvalidArgumentError(message, reason="BAD_TYPE", field=field, remedy=remedy)


def bad_spec(
    message: str,
    *,
    field: str = "spec",
    remedy: str = "",
    violations: Sequence[tuple[str, str]] = (),
) -> InvalidArgumentError:
    """The error for a job spec that does not fit the API."""
    return InvalidArgumentError(
        message, reason="BAD_SPEC", field=field, remedy=remedy, violations=violations
    )


def damaged(message: str, *, field: str, remedy: str) -> DataLossError:
    """The error for bytes that do not have the sha256 that they should have."""
    return DataLossError(message, reason="SHA256_MISMATCH", field=field, remedy=remedy)


def no_local_file(message: str, *, field: str, remedy: str) -> InvalidArgumentError:
    """The error for a file that is not on this machine."""
    return InvalidArgumentError(message, reason="LOCAL_FILE_NOT_FOUND", field=field, remedy=remedy)


def local_file(message: str, *, field: str = "", remedy: str = "") -> PreconditionError:
    """The error for a file of this machine that cannot be read or written."""
    return PreconditionError(message, reason="LOCAL_FILE", field=field, remedy=remedy)


def timed_out(message: str, *, remedy: str) -> DeadlineError:
    """The error for a call whose `timeout` is over."""
    return DeadlineError(message, reason="TIMEOUT", field="timeout", remedy=remedy)
