"""Edits of features: what steering does to the activations of a dictionary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from saeserve.core.specs.base import Spec
from saeserve.errors import SpecError

MAX_EDITS = 256
"""Edits of one request, so that the features in question are few columns of every row."""
MAX_FEATURE = 2**32 - 1
Action = Literal["add", "set", "scale", "clamp", "ablate"]
ACTIONS: tuple[Action, ...] = ("add", "set", "scale", "clamp", "ablate")
_FIXING = ("set", "ablate")
"""Actions after which a feature has one value, whatever it had."""


class ClampSpec(Spec):
    """Bounds of an activation; an absent one does not bound."""

    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.low is None and self.high is None:
            raise ValueError("set low, high or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low = {self.low:g} is above high = {self.high:g}")
        return self


class EditSpec(Spec):
    """One action on one feature; a feature that is not among a row's has activation 0."""

    feature: int = Field(ge=0, le=MAX_FEATURE)
    add: float | None = None
    set: float | None = None
    scale: float | None = None
    clamp: ClampSpec | None = None
    ablate: bool | None = None

    @property
    def action(self) -> Action:
        """The action that is set."""
        return next(name for name in ACTIONS if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _one_action(self) -> Self:
        given = [name for name in ACTIONS if getattr(self, name) is not None]
        if len(given) != 1:
            many = " and ".join(given) or "none"
            raise ValueError(f"exactly one of {', '.join(ACTIONS)} must be set; {many} are")
        if self.ablate is False:
            raise ValueError("ablate = false says nothing: leave the edit out")
        return self


class EditsSpec(Spec):
    """A list of edits, applied in order; those of different features do not meet."""

    edits: tuple[EditSpec, ...] = Field(min_length=1, max_length=MAX_EDITS)

    def checked(self, field: str) -> Self:
        """The same, `field` being the path of what holds the list. Raises SpecError for edits that
        contradict each other."""
        check_consistent(self.edits, field)
        return self


def check_consistent(edits: Sequence[EditSpec], field: str) -> None:
    """Raise SpecError for a feature that is set or ablated and has another edit, which would count
    for nothing, and for bounds of which no activation meets both."""
    seen: dict[int, list[tuple[int, EditSpec]]] = {}
    for index, edit in enumerate(edits):
        for earlier, other in seen.setdefault(edit.feature, []):
            if (why := _contradiction(other, edit)) is not None:
                raise SpecError(
                    f"{field}.{index}" if field else f"{index}",
                    f"feature {edit.feature} is {_PAST[edit.action]} here and "
                    f"{_PAST[other.action]} by edit {earlier}: {why}",
                    remedy="leave one of the two out",
                )
        seen[edit.feature].append((index, edit))


def check_features(edits: Sequence[EditSpec], d_sae: int, field: str) -> None:
    """Raise SpecError for an edit of a feature that the model does not have."""
    for index, edit in enumerate(edits):
        if edit.feature >= d_sae:
            raise SpecError(
                f"{field}.{index}.feature",
                f"{edit.feature} is not below the model's {d_sae} features",
                remedy=f"choose 0 to {d_sae - 1}",
            )


_PAST = {
    "add": "added to",
    "set": "set",
    "scale": "scaled",
    "clamp": "clamped",
    "ablate": "ablated",
}


def _contradiction(first: EditSpec, second: EditSpec) -> str | None:
    if first.action in _FIXING or second.action in _FIXING:
        return "one of them would count for nothing"
    if first.clamp is None or second.clamp is None:
        return None
    lows = [c.low for c in (first.clamp, second.clamp) if c.low is not None]
    highs = [c.high for c in (first.clamp, second.clamp) if c.high is not None]
    disjoint = bool(lows) and bool(highs) and max(lows) > min(highs)
    return "no activation lies within both" if disjoint else None
