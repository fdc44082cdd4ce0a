"""Opaque tokens: where a listing or a watch goes on. Altered ones are refused."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass

from pydantic import TypeAdapter

from saeserve.errors import InvalidInput

DEFAULT_PAGE = 100
MAX_PAGE = 1000
_TEXTS = TypeAdapter(list[str])


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
    return _encode([_digest(scope), after]) if after else ""


def page_after(token: str, scope: str) -> str:
    """The row that the page comes after. Raises InvalidInput for another listing's token."""
    if not token:
        return ""
    digest, after = _decode(token, "page_token", 2)
    if digest != _digest(scope):
        raise InvalidInput(
            "the page token belongs to a listing with other conditions",
            code="BAD_PAGE_TOKEN",
            field="page_token",
            remedy="keep the filter while paging, or start without a token",
        )
    return after


def resume_token(job: str, cursor: Cursor) -> str:
    """Token that stands for the events after `cursor`."""
    place = [job, cursor.generation, str(cursor.sequence)]
    return _encode([*place, str(cursor.stored)] if cursor.stored else place)


def resume_cursor(token: str, job: str) -> Cursor:
    """Where a watch of `job` goes on. Raises InvalidInput for another job's token."""
    if not token:
        return Cursor()
    owner, generation, *numbers = _decode(token, "resume_token", 3, 4)
    if owner != job or not all(number.isascii() and number.isdigit() for number in numbers):
        raise InvalidInput(
            "the resume token belongs to another job",
            code="BAD_RESUME_TOKEN",
            field="resume_token",
            remedy="use the token of an event of this job, or none",
        )
    return Cursor(generation, *map(int, numbers))


def _encode(parts: list[str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def _decode(token: str, field: str, *parts: int) -> list[str]:
    try:
        padded = token + "=" * (-len(token) % 4)
        texts = _TEXTS.validate_json(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        texts = []
    if len(texts) not in parts:
        raise InvalidInput(
            "this token was not given by this server",
            code=f"BAD_{field.upper()}",
            field=field,
            remedy="use a token as it came, or none",
        )
    return texts


def _digest(scope: str) -> str:
    return hashlib.sha256(scope.encode()).hexdigest()[:16]
