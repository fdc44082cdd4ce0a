"""Specs that are too large to be returned or indexed whole: their lists are shortened.

No spec of this size is accepted any more; the store may hold jobs of releases that did.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from saeserve.jobs.record import JobRecord, Submission

INDEXED_CHARACTERS = 2**20
"""What the index holds of a spec: all of it, up to about this much JSON."""
_ENTRIES = 10
_CHARACTERS = 200


def indexed(record: JobRecord) -> JobRecord:
    """The record as an index keeps it; the store has the spec whole."""
    return shortened(record, INDEXED_CHARACTERS)


def shortened(record: JobRecord, limit: int) -> JobRecord:
    """`record`, with specs cut down when one has more than about `limit` characters of JSON."""
    submission = record.submission
    if not (larger(submission.spec, limit) or larger(submission.resolved_spec, limit)):
        return record
    return record.model_copy(update={"submission": _cut(submission), "spec_cut": True})


def larger(value: object, limit: int) -> bool:
    """Whether `value`, plain data, has more than about `limit` characters; looks no further."""
    seen = 0
    for size in _sizes(value):
        seen += size
        if seen > limit:
            return True
    return False


def _sizes(value: object) -> Iterator[int]:
    if isinstance(value, Mapping):
        for name, item in cast("Mapping[str, object]", value).items():
            yield len(name) + 4
            yield from _sizes(item)
    elif isinstance(value, list | tuple):
        for item in cast("list[object]", value):
            yield 2
            yield from _sizes(item)
    else:
        yield len(value) if isinstance(value, str) else 8


def _cut(submission: Submission) -> Submission:
    changes = {
        "spec": _shorter(submission.spec),
        "resolved_spec": _shorter(submission.resolved_spec),
    }
    return submission.model_copy(update=changes)


def _shorter(value: Any) -> Any:  # noqa: ANN401 - plain data of any shape
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value).items()
        return {name: _shorter(item) for name, item in items}
    if isinstance(value, list | tuple):
        return [_shorter(item) for item in cast("list[object]", value)[:_ENTRIES]]
    return value[:_CHARACTERS] if isinstance(value, str) else value
