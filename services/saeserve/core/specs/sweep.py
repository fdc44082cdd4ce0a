"""A sweep: train specs that differ in the values of a grid, written as one.

Works on plain fields, as a spec comes in, because what is varied may be left out of the spec.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Self, cast

from pydantic import model_validator

from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.base import Spec, refuse_together
from saeserve.core.specs.presets import Fields, overlaid
from saeserve.errors import SpecError, SpecErrors

MOST_MEMBERS = 64
_FIELD = "train.sweep"
_SHORT = {
    "k": "k",
    "d_sae": "d",
    "sparsity_coefficient": "lambda",
    "target_l0": "l0_",
    "lr": "lr",
    "seed": "seed",
}
"""How a member's name calls the axes."""


class SweepSpec(Spec):
    """A grid over these fields of a train spec; its members are every combination of the values,
    in the order of the fields, the last varying fastest."""

    k: tuple[float, ...] = ()
    d_sae: tuple[int, ...] = ()
    sparsity_coefficient: tuple[float, ...] = ()
    target_l0: tuple[float, ...] = ()
    lr: tuple[float, ...] = ()
    seed: tuple[int, ...] = ()

    @property
    def axes(self) -> dict[str, Sequence[float]]:
        """The fields that have values, in order."""
        named = {name: cast("Sequence[float]", getattr(self, name)) for name in _SHORT}
        return {name: values for name, values in named.items() if values}

    @model_validator(mode="after")
    def _is_a_grid(self) -> Self:
        refuse_together(
            *(partial(_check_axis, *axis) for axis in self.axes.items()), self._check_size
        )
        return self

    def _check_size(self) -> None:
        size = math.prod(len(values) for values in self.axes.values())
        if size < 2:
            raise SpecError(
                _FIELD,
                "has one member" if self.axes else "varies nothing",
                remedy="list two values or more, or set the fields themselves and leave sweep out",
            )
        if size > MOST_MEMBERS:
            raise SpecError(
                _FIELD,
                f"has {size} members; at most {MOST_MEMBERS} are trained at a time",
                remedy="list fewer values, or submit several jobs",
            )


def _check_axis(name: str, values: Sequence[float]) -> None:
    again = next((v for n, v in enumerate(values) if v in values[:n]), None)
    if again is not None:
        raise SpecError(
            f"{_FIELD}.{name}", f"{_text(again)} is listed twice", remedy="list it once"
        )


@dataclass(frozen=True)
class Member:
    """The fields of one member's train spec; its label tells it from the others."""

    label: str
    fields: Fields


@dataclass(frozen=True)
class Grid:
    """A train spec's plain fields, the axes of its sweep, and the fields that each axis sets."""

    fields: Fields
    axes: Mapping[str, Sequence[float]]
    paths: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """Read the sweep in `fields`.

        Raises SpecError for one that is not a grid, that varies what the architecture does not
        have, or whose fields are also set to another value.
        """
        given = fields["sweep"]
        sweep = given if isinstance(given, SweepSpec) else SweepSpec.parse(given, _FIELD)
        paths = _paths(sweep.axes, overlaid(fields))
        _check_unset(fields, sweep.axes, paths)
        return cls(dict(fields), sweep.axes, paths)

    def first(self) -> Fields:
        """The fields with every varied one set to its first value."""
        return self._with({axis: values[0] for axis, values in self.axes.items()})

    def members(self) -> tuple[Member, ...]:
        """Every combination of the values."""
        combinations = product(*self.axes.values())
        return tuple(self._member(dict(zip(self.axes, c, strict=True))) for c in combinations)

    def named(self, member: Member, error: SpecError) -> SpecError:
        """The error as one of the sweep, at the axis that sets the field where there is one."""
        found = [self._named(member, part) for part in error.parts]
        return found[0] if len(found) == 1 else SpecErrors(found)

    def _named(self, member: Member, error: SpecError) -> SpecError:
        axis = next((a for a, own in self.paths.items() if error.field in _fields(own)), None)
        field = error.field if axis is None else f"{_FIELD}.{axis}"
        message = error.message.removeprefix(f"{error.field}: ")
        return SpecError(field, f"member {member.label}: {message}", remedy=error.remedy)

    def _member(self, values: Mapping[str, float]) -> Member:
        label = "-".join(f"{_SHORT[axis]}{_text(value)}" for axis, value in values.items())
        fields = {name: value for name, value in self._with(values).items() if name != "sweep"}
        # The stream is one, so its order does not hang on the member's own seed.
        if fields.get("data_seed") is None:
            fields["data_seed"] = self.first().get("seed") or 0
        name = overlaid(self.fields).get("model")
        return Member(label, fields | {"model": f"{name}-{label}"} if name else fields)

    def _with(self, values: Mapping[str, float]) -> Fields:
        fields = self.fields
        for axis, value in values.items():
            for path in self.paths[axis]:
                fields = _put(fields, path.split("."), value)
        return fields


def checked_grid(fields: Mapping[str, Any], parse: Callable[[Fields], object]) -> Fields:
    """The fields as those of the first member, the sweep kept, once `parse` took every member.

    Raises SpecError naming the member that cannot be; as it is where it is the same for all.
    """
    grid = Grid.of(fields)
    members = grid.members()
    errors = [(member, error) for member in members if (error := _refusal(member, parse))]
    if errors:
        member, error = errors[0]
        common = len(errors) == len(members) and len({e.message for _, e in errors}) == 1
        raise error if common else grid.named(member, error)
    return grid.first()


def _paths(axes: Mapping[str, object], whole: Fields) -> dict[str, tuple[str, ...]]:
    """The fields of the spec that each axis sets; none without an architecture, for which the
    spec is refused."""
    name = next((name for name in ARCHITECTURE_SPECS if whole.get(name) is not None), None)
    if name is None:
        return {axis: () for axis in axes}
    _check_axes(axes, name)
    has_k = "k" in ARCHITECTURE_SPECS[name].model_fields
    found = {
        "k": (f"{name}.k",),
        "d_sae": ("d_sae",),
        "sparsity_coefficient": (f"{name}.sparsity_coefficient",),
        "target_l0": ("target_l0", f"{name}.k") if has_k else ("target_l0",),
        "lr": ("optimizer.lr",),
        "seed": ("seed",),
    }
    return {axis: found[axis] for axis in axes}


def _check_axes(axes: Mapping[str, object], name: str) -> None:
    """Raise SpecError for axes that the architecture `name` does not have, or of which one is k."""
    known = ARCHITECTURE_SPECS[name].model_fields
    for axis, other in (("k", "sparsity_coefficient"), ("sparsity_coefficient", "k")):
        if axis in axes and axis not in known:
            raise SpecError(
                f"{_FIELD}.{axis}", f"{name} has no {axis}", remedy=f"vary {other} or target_l0"
            )
    if "k" in axes and "target_l0" in axes:
        raise SpecError(
            f"{_FIELD}.target_l0", f"is k for {name}, which is varied too", remedy="vary one"
        )


def _check_unset(
    fields: Mapping[str, Any],
    axes: Mapping[str, Sequence[float]],
    paths: Mapping[str, tuple[str, ...]],
) -> None:
    """What is varied may also be set to the first value, as in a spec that was read before."""
    for axis, values in axes.items():
        for path in paths[axis]:
            own = _get(fields, path)
            if own is not None and own != values[0]:
                raise SpecError(
                    f"train.{path}",
                    f"is {own}, and sweep.{axis} begins with {_text(values[0])}",
                    remedy=f"leave {path} out: the sweep sets it",
                )


def _refusal(member: Member, parse: Callable[[Fields], object]) -> SpecError | None:
    try:
        parse(member.fields)
    except SpecError as error:
        return error
    return None


def _fields(paths: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"train.{path}" for path in paths)


def _get(fields: Mapping[str, Any], path: str) -> object:
    name, _, rest = path.partition(".")
    below: object = fields.get(name)
    if not rest:
        return below
    return _get(cast("Mapping[str, Any]", below), rest) if isinstance(below, Mapping) else None


def _put(fields: Fields, path: Sequence[str], value: float) -> Fields:
    """A copy of `fields` with `value` at `path`."""
    name, *rest = path
    below = fields.get(name)
    inner: Fields = dict(cast("Fields", below)) if isinstance(below, Mapping) else {}
    return {**fields, name: _put(inner, rest, value) if rest else value}


def _text(value: float) -> str:
    """A number as it may stand in a name; no two are written alike."""
    return str(value) if isinstance(value, int) else repr(value).removesuffix(".0").replace("+", "")
