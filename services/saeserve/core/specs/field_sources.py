"""Where the value of each field comes from that a spec leaves unset, or that resolving changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from saeserve.core.specs import field_reasons as reasons
from saeserve.core.specs.jobs import CONTEXT_LENGTH, HarvestSpec
from saeserve.core.specs.presets import PRESETS, Fields
from saeserve.core.specs.sweep import Grid
from saeserve.core.specs.training import TrainSpec

Origin = Literal["default", "fitted", "preset", "preset_changed", "adjusted"]
Flat = dict[str, Any]


@dataclass(frozen=True)
class FieldSource:
    """One field of a resolved spec, its value, and where that comes from. Values are JSON texts."""

    field: str
    """Path below the job's kind, such as "optimizer.lr"."""
    origin: Origin
    """default: a constant; fitted: computed from the run, the data or other fields; preset: as
    published; preset_changed: published as `replaced`; adjusted: given as `replaced`."""
    value: str = ""
    """Empty while it is not known, because the data set is not READY yet or the language model
    was not read."""
    replaced: str = ""
    reason: str = ""
    member: str = ""
    """Name of the model of the sweep's member that it is about; empty for the whole job."""


def sources_of_training(
    given: Mapping[str, Any], members: Sequence[TrainSpec]
) -> tuple[FieldSource, ...]:
    """Field sources of a `given` train spec with its resolved `members` (one without a sweep)."""
    known = {name: value for name, value in given.items() if value is not None}
    own = [known]
    if "sweep" in known:
        made = {"data_seed", "model"} - known.keys()
        own = [
            {name: value for name, value in each.fields.items() if name not in made}
            for each in Grid.of(known).members()
        ]
    listed = [list(_of_member(fields, spec)) for fields, spec in zip(own, members, strict=True)]
    return _merged(listed, [spec.model for spec in members])


def sources_of(given: Mapping[str, Any], resolved: Mapping[str, Any]) -> tuple[FieldSource, ...]:
    """Field sources of a spec of another kind, from the `given` and `resolved` forms."""
    before = flat(given)
    found = (_plain(path, value, before) for path, value in flat(resolved).items())
    return tuple(each for each in found if each is not None)


def sources_of_harvest(given: Mapping[str, Any], spec: HarvestSpec) -> tuple[FieldSource, ...]:
    """Field sources of a harvest, whose context_length follows the language model's positions."""
    found = sources_of(given, spec.to_json())
    if spec.context_length is None:
        why = "once a worker has read the language model"
        return (*found, FieldSource(field="context_length", origin="fitted", reason=why))
    return tuple(_fitted_context(each, spec.context_length) for each in found)


def _fitted_context(each: FieldSource, length: int) -> FieldSource:
    if (each.field, each.origin) != ("context_length", "default") or length == CONTEXT_LENGTH:
        return each
    why = f"all positions of the language model, which are fewer than {CONTEXT_LENGTH}"
    return replace(each, origin="fitted", reason=why)


def flat(value: object, path: str = "") -> Flat:
    """Plain data by path, such as {"texts[0].path": …}; without what is unset or empty."""
    found: Flat = {}
    if isinstance(value, Mapping):
        for name, item in cast("Mapping[str, object]", value).items():
            found |= flat(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list | tuple):
        items = list(cast("Sequence[object]", value))
        if not any(isinstance(item, Mapping) for item in items):
            return {path: items} if items else {}
        for number, item in enumerate(items):
            found |= flat(item, f"{path}[{number}]")
    elif value is not None and value != "":
        found[path] = value
    return found


@dataclass(frozen=True)
class _Member:
    """A resolved spec, what was given for it, and what its preset has, by path."""

    spec: TrainSpec
    given: Flat
    published: Flat
    fitted: Mapping[str, str]
    """What `fitted_reasons` gives for `spec`."""


def _of_member(given: Fields, spec: TrainSpec) -> Iterator[FieldSource]:
    preset = PRESETS[spec.preset].fields if spec.preset else {}
    member = _Member(spec, flat(given), flat(preset), reasons.fitted_reasons(spec))
    values = flat({name: value for name, value in spec.to_json().items() if name != "sweep"})
    if spec.optimizer.lr is None:  # its data set is not there, and a worker resolves the rest
        values |= _unknown(spec, values)
    for path, value in values.items():
        found = _of_field(member, path, value)
        if found is not None:
            yield found


def _unknown(spec: TrainSpec, values: Flat) -> Flat:
    found: Flat = {path: None for path in reasons.awaited(spec) if path not in values}
    if spec.dead_window_tokens > max(1, spec.tokens // 10):
        found["dead_window_tokens"] = None
    return found


def _of_field(member: _Member, path: str, value: object) -> FieldSource | None:
    if path in member.given:
        return _plain(path, value, member.given)
    beside = reasons.BESIDE_PRESET.get(path) if member.spec.preset else None
    if value is None:
        origin = "preset" if beside else "fitted"
        return FieldSource(field=path, origin=origin, reason="once the data set is READY")
    if path in member.published:
        return _of_preset(member, path, value)
    name = path.rpartition(".")[2]
    why = beside(member.spec) if beside else member.fitted.get(name, "")
    origin = "preset" if beside else "fitted" if why else "default"
    return FieldSource(field=path, value=_text(value), origin=origin, reason=why)


def _of_preset(member: _Member, path: str, value: object) -> FieldSource:
    was = member.published[path]
    if was == value:
        return FieldSource(field=path, value=_text(value), origin="preset")
    return FieldSource(
        field=path,
        value=_text(value),
        origin="preset_changed",
        replaced=_text(was),
        reason=reasons.CHANGED[path.rpartition(".")[2]](member.spec, was),
    )


def _plain(path: str, value: object, given: Flat) -> FieldSource | None:
    """A constant where the field was not given, else None unless resolving changed the value."""
    if path not in given:
        return FieldSource(field=path, value=_text(value), origin="default")
    if given[path] == value:
        return None
    return FieldSource(
        field=path,
        value=_text(value),
        origin="adjusted",
        replaced=_text(given[path]),
        reason=reasons.ADJUSTED.get(path.rpartition(".")[2], ""),
    )


def _merged(
    listed: Sequence[Sequence[FieldSource]], models: Sequence[str]
) -> tuple[FieldSource, ...]:
    """Each once; what does not hold for every member names those for which it holds."""
    holders: dict[FieldSource, list[str]] = {}
    for found, model in zip(listed, models, strict=True):
        for each in found:
            holders.setdefault(each, []).append(model)
    return tuple(
        replace(each, member=model)
        for each, names in holders.items()
        for model in ([""] if len(names) == len(models) else names)
    )


def _text(value: object) -> str:
    return json.dumps(value)
