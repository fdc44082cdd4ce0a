"""Where the values of a job's fields come from, on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

from saeserve.client.field_sources import FieldSource
from saeserve.client.values import Job

_TOGETHER = {"preset": "as its preset has it", "default": "by default"}
"""Origins that say enough: fields of one of them stand in one line."""


def field_sources_text(
    sources: Sequence[FieldSource], preset: str = "", every_field: str = ""
) -> str:
    """A line for each field whose value was computed or changed, and one for each other origin.

    Fields that have their default are counted, and named only where there is no command
    `every_field` that names them.
    """
    defaults = [each for each in sources if each.origin == "default"] if every_field else []
    told = [each for each in sources if each not in defaults]
    lines = [_line(each, preset) for each in told if each.origin not in _TOGETHER]
    lines += _lines_together(told)
    if defaults:
        lines.append(f"{len(defaults)} by default: {every_field}")
    return "\n".join(lines)


def given_text(job: Job) -> str:
    """The fields that the submitter gave, in one line; empty where the server does not say."""
    given = job.spec.get(job.kind, {})
    return ", ".join(f"{name} = {value_text(value)}" for name, value in leaves(given))


def preset_of(job: Job) -> str:
    """The preset that a train job names; empty where there is none."""
    return job.resolved_spec.get("train", {}).get("preset", "")


def _line(each: FieldSource, preset: str) -> str:
    told = f"{_named(each)}: fitted"
    if each.origin == "preset_changed":
        told = f"{_named(each)}: changed from {value_text(each.replaced)} of preset {preset}"
    elif each.origin == "adjusted":
        told = f"{_named(each)}: changed from {value_text(each.replaced)}, which was given"
    return f"{told} ({each.reason})" if each.reason else told


def _lines_together(sources: Iterable[FieldSource]) -> Iterator[str]:
    for origin, words in _TOGETHER.items():
        named = [_named(each) for each in sources if each.origin == origin]
        if named:
            yield f"{words}: {', '.join(named)}"


def _named(each: FieldSource) -> str:
    member = f"{each.member}: " if each.member else ""
    return f"{member}{each.field} = {value_text(each.value)}"


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Each value in `value`, by its dotted path; items of a list by their number."""
    if isinstance(value, Mapping) and value:
        for name, each in cast("Mapping[object, object]", value).items():
            yield from leaves(each, f"{path}.{name}" if path else str(name))
        return
    items = cast("list[object]", value) if isinstance(value, list) else []
    if any(isinstance(each, Mapping) for each in items):
        for number, each in enumerate(items):
            yield from leaves(each, f"{path}[{number}]")
    elif path:
        yield path, value


def value_text(value: object) -> str:
    """A field's value, as lines for people have it."""
    if isinstance(value, list):
        return f"[{', '.join(map(value_text, cast('list[object]', value)))}]"
    if value is None:
        return "?"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
