"""Where the values of a job's resolved spec come from, off the wire."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from saeserve.v1 import job_pb2


@dataclass(frozen=True)
class FieldSource:
    """A field of `resolved_spec` that was not given, or was changed."""

    field: str
    """Path below the job's kind, such as "optimizer.lr"."""
    value: Any
    """None while it is not known, because the data set is not READY yet."""
    origin: str
    """"default", "fitted", "preset", "preset_changed" or "adjusted"."""
    replaced: Any
    """What the preset has (preset_changed), or what was given (adjusted); else None."""
    reason: str
    member: str = ""
    """Name of the model of the sweep's member that it is about; empty without a sweep."""


def field_sources(sources: Iterable[job_pb2.FieldSource]) -> tuple[FieldSource, ...]:
    """Convert the field sources of a job or a plan."""
    return tuple(
        FieldSource(
            field=each.field,
            value=_read(each.value),
            origin=each.origin,
            replaced=_read(each.replaced),
            reason=each.reason,
            member=each.member,
        )
        for each in sources
    )


def _read(text: str) -> Any:  # noqa: ANN401 - a field of a spec has any of JSON's types
    return json.loads(text) if text else None
