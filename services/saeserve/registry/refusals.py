"""Refusals that data sets, models and uploads have in common: one function for each code."""

from __future__ import annotations

from saeserve.errors import FailedPrecondition, InvalidInput, NotFound, PermissionDenied


def bad_name(message: str, *, field: str, remedy: str) -> InvalidInput:
    """The error for a name that is not allowed."""
    return InvalidInput(message, code="BAD_NAME", field=field, remedy=remedy)


def bad_reference(message: str, *, field: str, remedy: str) -> InvalidInput:
    """The error for a text that does not refer to a model, or not to one version."""
    return InvalidInput(message, code="BAD_REFERENCE", field=field, remedy=remedy)


def bad_resource(message: str, *, field: str, remedy: str) -> InvalidInput:
    """The error for a text that does not name a resource of the kind that is needed."""
    return InvalidInput(message, code="BAD_RESOURCE", field=field, remedy=remedy)


def no_file(message: str, *, field: str, remedy: str) -> NotFound:
    """The error for a file that is not, or no longer, there."""
    return NotFound(message, code="FILE_NOT_FOUND", field=field, remedy=remedy)


def no_upload(message: str, *, field: str, remedy: str) -> NotFound:
    """The error for an upload that is not, or no longer, there."""
    return NotFound(message, code="UPLOAD_NOT_FOUND", field=field, remedy=remedy)


def upload_incomplete(message: str, *, remedy: str, field: str = "") -> FailedPrecondition:
    """The error for files whose bytes have not all arrived."""
    return FailedPrecondition(message, code="UPLOAD_INCOMPLETE", field=field, remedy=remedy)


def in_use(message: str, *, field: str, remedy: str) -> FailedPrecondition:
    """The error for what live jobs or aliases need."""
    return FailedPrecondition(message, code="IN_USE", field=field, remedy=remedy)


def not_owner(message: str, *, field: str, remedy: str) -> PermissionDenied:
    """The error for what belongs to another owner."""
    return PermissionDenied(message, code="NOT_OWNER", field=field, remedy=remedy)
