"""How much a request may hold: bounds that no real one reaches, checked before anything else.

What is recorded is listed, indexed and sent again and again, so it must stay small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import cast

from saeserve.errors import InvalidInput

MAX_ENTRIES = 1000
"""Maximum length of any list in a spec."""
MAX_TEXT = 4096
"""Characters of any text in a spec, which is what a path may have."""
MAX_FILES = 10_000
"""Files that a data set may be registered of."""
MAX_CONDITIONS = 100
"""Entries of each list in a filter."""


def check_spec(spec: object, field: str) -> None:
    """Raise InvalidInput, naming its path from the request, for the first list or text in `spec`
    (plain data) that is too long."""
    if isinstance(spec, Mapping):
        for name, value in cast("Mapping[str, object]", spec).items():
            check_spec(value, f"{field}.{name}")
    elif isinstance(spec, str):
        check_text(spec, field, MAX_TEXT)
    elif isinstance(spec, Sequence):
        entries = cast("Sequence[object]", spec)
        check_count(entries, field, MAX_ENTRIES)
        for index, value in enumerate(entries):
            check_spec(value, f"{field}[{index}]")


def check_count(entries: Sized, field: str, limit: int) -> None:
    """Raise InvalidInput for more than `limit` entries."""
    if len(entries) > limit:
        raise InvalidInput(
            f"{field} has {len(entries)} entries; at most {limit} are accepted",
            code="TOO_MANY",
            field=field,
            remedy="leave some out, or spread them over several requests",
        )


def check_text(text: str, field: str, limit: int) -> None:
    """Raise InvalidInput for more than `limit` characters."""
    if len(text) > limit:
        raise InvalidInput(
            f"{field} has {len(text)} characters; at most {limit} are accepted",
            code="TOO_LONG",
            field=field,
            remedy="shorten it",
        )
