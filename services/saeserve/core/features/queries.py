"""Lists of features as SQL: conditions with parameters, never with the caller's text in them."""

from __future__ import annotations

from typing import get_args

from saeserve.core.features.values import FeatureFilter, SortKey
from saeserve.errors import SpecError

MAX_PAGE = 1000
"""Features that one list holds at most."""


def list_query(where: FeatureFilter) -> tuple[str, list[object]]:
    """A condition over `features f`, and the values of its parameters."""
    bounds = (
        ("f.density >= ?", where.min_density),
        ("f.density <= ?", where.max_density),
        ("f.max >= ?", where.min_max),
    )
    found: list[tuple[str, list[object]]] = [
        (condition, [value]) for condition, value in bounds if value is not None
    ]
    if where.dead is not None:
        found.append(("f.density = 0" if where.dead else "f.density > 0", []))
    if where.features is not None:
        marks = ", ".join("?" * len(where.features))
        found.append((f"f.feature IN ({marks})", list(where.features)))
    if where.label is not None and (words := _match(where.label)):
        index = "SELECT rowid FROM label_index WHERE label_index MATCH ?"
        found.append((f"f.feature IN ({index})", [words]))
    condition = " AND ".join(condition for condition, _ in found) or "1"
    return condition, [value for _, values in found for value in values]


def page_of(
    sort: SortKey, *, descending: bool, offset: int, limit: int
) -> tuple[str, tuple[int, int]]:
    """The order of a query, and the values of its LIMIT and OFFSET. Raises SpecError."""
    if sort not in get_args(SortKey):
        known = ", ".join(get_args(SortKey))
        raise SpecError("sort", f"{sort!r} is not one of {known}", remedy="sort by one of them")
    if not 1 <= limit <= MAX_PAGE:
        raise SpecError("limit", f"must be between 1 and {MAX_PAGE}; got {limit}")
    if offset < 0:
        raise SpecError("offset", f"must not be negative; got {offset}")
    way = "DESC" if descending else "ASC"
    ties = "" if sort == "feature" else f", f.feature {way}"
    return f"ORDER BY f.{sort} {way}{ties}", (limit, offset)


def _match(words: str) -> str:
    """Every word as a quoted prefix: FTS5's operators have no meaning in what people type, and a
    NUL would end its query."""
    quoted = (word.replace('"', '""') for word in words.replace("\0", " ").split())
    return " ".join(f'"{word}"*' for word in quoted)
