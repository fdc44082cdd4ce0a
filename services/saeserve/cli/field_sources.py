"""Where the values of a job's fields come from, on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from saeserve.client.field_sources import FieldSource
from saeserve.client.values import Job

_TOGETHER = {"preset": "as its preset has it", "default": "by default"}
"""Origins that say enough: fields of one of them stand in one line."""


def field_sources_text(sources: Sequence[FieldSource], preset: str = "") -> str:
    """A line for each field whose value was computed or changed, and one for each other origin."""
    alone = (_line(each, preset) for each in sources if each.origin not in _TOGETHER)
    return "\n".join([*alone, *_lines_together(sources)])


def preset_of(job: Job) -> str:
    """The preset that a train job names; empty where there is none."""
    return job.resolved_spec.get("train", {}).get("preset", "")


def _line(each: FieldSource, preset: str) -> str:
    told = f"{_named(each)}: fitted"
    if each.origin == "preset_changed":
        told = f"{_named(each)}: changed from {_figure(each.replaced)} of preset {preset}"
    elif each.origin == "adjusted":
        told = f"{_named(each)}: changed from {_figure(each.replaced)}, which was given"
    return f"{told} ({each.reason})" if each.reason else told


def _lines_together(sources: Iterable[FieldSource]) -> Iterator[str]:
    for origin, words in _TOGETHER.items():
        named = [_named(each) for each in sources if each.origin == origin]
        if named:
            yield f"{words}: {', '.join(named)}"


def _named(each: FieldSource) -> str:
    member = f"{each.member}: " if each.member else ""
    return f"{member}{each.field} = {_figure(each.value)}"


def _figure(value: object) -> str:
    if value is None:
        return "?"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
