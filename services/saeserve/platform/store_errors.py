"""What can be wrong with the artifact store: one function for each code."""

from __future__ import annotations

from saeserve.errors import InvalidInput, NoSpaceError, Overloaded, Unavailable

_LOOK_AGAIN_S = 60.0


def store_unavailable(message: str, *, remedy: str = "") -> Unavailable:
    """The error for a store that is not there or cannot be written."""
    return Unavailable(message, code="STORE_UNAVAILABLE", remedy=remedy)


def read_only() -> Unavailable:
    """The error for a volume that can only be read; what is stored can be read meanwhile."""
    return store_unavailable(
        "the file system of the artifact store is read-only",
        remedy="mount the volume for writing; the kernel's log says whether its disk failed",
    )


def disk_full() -> Unavailable:
    """The error for a full disk; nothing half-written stays behind it."""
    return Unavailable(
        "the disk that holds the artifact store is full",
        code=NoSpaceError.code,
        remedy="free space or move the store, then submit again",
    )


def no_room(message: str, field: str) -> Overloaded:
    """The error for an upload that would take what is kept for jobs."""
    return Overloaded(
        message,
        retry_after_s=_LOOK_AGAIN_S,
        code=NoSpaceError.code,
        field=field,
        remedy="free space, or register the file under a root in place of uploading it",
    )


def bad_path(message: str, *, remedy: str, field: str = "") -> InvalidInput:
    """The error for a path that leads out of its folder or cannot be read."""
    return InvalidInput(message, code="BAD_PATH", field=field, remedy=remedy)
