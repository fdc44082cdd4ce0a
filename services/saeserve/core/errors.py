"""Errors of the science: each says what was wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence


class SaeError(Exception):
    """Base of every error that the core raises on purpose.

    `code` is a stable word for programs, `remedy` a sentence for the person who reads it.
    `retryable` says whether the same input may succeed another time.
    """

    code = "INTERNAL"
    retryable = False

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class SpecError(SaeError):
    """A spec that cannot be run. `field` is its path, e.g. ``train.topk.k``."""

    code = "INVALID_SPEC"

    def __init__(self, field: str, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{field}: {message}", remedy=remedy)
        self.field = field

    @property
    def parts(self) -> tuple[SpecError, ...]:
        """The errors that this one consists of: itself, unless it is of several fields."""
        return (self,)


class SpecErrors(SpecError):
    """Several errors of one spec. `field` is that of the first, `message` names them all."""

    def __init__(self, errors: Sequence[SpecError]) -> None:
        self._parts = tuple(part for error in errors for part in error.parts)
        SaeError.__init__(self, "; ".join(part.message for part in self._parts))
        self.remedy = "; ".join(dict.fromkeys(part.remedy for part in self._parts if part.remedy))
        self.field = self._parts[0].field

    @property
    def parts(self) -> tuple[SpecError, ...]:
        """The errors, each of one field."""
        return self._parts


class DataError(SaeError):
    """Activations that cannot be used; names the shard and, where it is known, the row."""

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

    code = "BAD_DATA"


class NoSpaceError(SaeError):
    """The disk is full, or would be."""

    code = "DISK_FULL"
    retryable = True
