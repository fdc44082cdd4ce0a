"""Positions of a context that a harvest stores, checked before any text is read."""

from __future__ import annotations

from typing import Protocol

from saeserve.core.specs.base import refuse_together
from saeserve.errors import SpecError


class Positions(Protocol):
    """The fields of a harvest spec that say which positions of a context become rows."""

    @property
    def bos(self) -> str:
        """prepend, none or model."""
        ...

    @property
    def position_start(self) -> int:
        """First position, as in a Python slice."""
        ...

    @property
    def position_stop(self) -> int | None:
        """Position after the last; None for the context's end."""
        ...


def check_positions(spec: Positions, length: int) -> None:
    """Raise SpecError where a bound is outside of the longest context of `length` tokens, BOS
    included, or where the bounds leave no row of it (the row of a BOS that is put in front is
    never stored)."""
    start, stop = spec.position_start, spec.position_stop
    refuse_together(
        lambda: _check_bound("position_start", start, length),
        lambda: _check_bound("position_stop", length if stop is None else stop, length),
    )
    first = 1 if spec.bos == "prepend" else 0
    if not any(position >= first for position in range(length)[start:stop]):
        end = "the end" if stop is None else str(stop)
        raise SpecError(
            "harvest.position_stop",
            f"positions {start} up to {end} leave no row of a context of {length} tokens"
            + (", whose BOS is never stored" if first else ""),
            remedy="set position_start below position_stop, both counted as in a Python slice",
        )


def _check_bound(name: str, value: int, length: int) -> None:
    if not -length <= value <= length:
        raise SpecError(
            f"harvest.{name}",
            f"{value} is outside of a context of {length} tokens",
            remedy=f"choose {-length} to {length}, or another context_length",
        )
