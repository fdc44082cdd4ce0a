"""The opaque tokens of listings and watches."""

from __future__ import annotations

from dataclasses import dataclass

from saeserve.errors import InvalidInput
from saeserve.platform import pages

DEFAULT_PAGE = 100
MAX_PAGE = 1000


@dataclass(frozen=True)
class Cursor:
    """Where a watch stands: after event `sequence` of the index that has this `generation`, and,
    when the index has no more of them, after `stored` of those that the store holds."""

    generation: str = ""
    sequence: int = 0
    stored: int = 0


def page_size(asked: int) -> int:
    """Rows of a page: 100 when unset, at most 1000. Raises InvalidInput for a negative one."""
    if asked < 0:
        raise InvalidInput(
            f"{asked} rows cannot be given", field="page_size", remedy="ask for 1 to 1000, or 0"
        )
    return min(asked or DEFAULT_PAGE, MAX_PAGE)


def page_token(scope: str, after: str) -> str:
    """Token of the page after the row `after` of the listing `scope`; "" at the end."""
    return pages.page_token(scope, after) if after else ""


def page_after(token: str, scope: str) -> str:
    """The row that the page comes after. Raises InvalidInput for another listing's token."""
    return pages.page_place(token, scope, 1)[0] if token else ""


def resume_token(job: str, cursor: Cursor) -> str:
    """Token that stands for the events after `cursor`."""
    place = [job, cursor.generation, str(cursor.sequence)]
    return pages.encoded([*place, str(cursor.stored)] if cursor.stored else place)


def resume_cursor(token: str, job: str) -> Cursor:
    """Where a watch of `job` goes on. Raises InvalidInput for another job's token."""
    if not token:
        return Cursor()
    owner, generation, *numbers = pages.decoded(token, "resume_token", 3, 4)
    if owner != job or not all(number.isascii() and number.isdigit() for number in numbers):
        raise InvalidInput(
            "the resume token belongs to another job",
            code="BAD_RESUME_TOKEN",
            field="resume_token",
            remedy="use the token of an event of this job, or none",
        )
    return Cursor(generation, *map(int, numbers))
