"""Pages of listings, cut by their size in bytes, and opaque tokens: where a listing or a watch goes
on. Altered ones are refused."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TypeVar

from google.protobuf.message import Message
from pydantic import TypeAdapter

from saeserve.errors import InvalidInput

MessageT = TypeVar("MessageT", bound=Message)

PAGE_BYTES = 2**20
"""A page ends early rather than grow beyond this; gRPC clients take 4 MiB unless configured."""
_TEXTS = TypeAdapter(list[str])


def fitting(messages: Iterable[MessageT]) -> list[MessageT]:
    """The first messages that a page has room for, and at least one."""
    page: list[MessageT] = []
    room = PAGE_BYTES
    for message in messages:
        room -= message.ByteSize()
        if room < 0 and page:
            break
        page.append(message)
    return page


def page_token(scope: str, *place: str) -> str:
    """The token of the page at `place` in the listing `scope`."""
    return encoded([_digest(scope), *place])


def page_place(token: str, scope: str, size: int) -> list[str]:
    """The `size` parts of the place. Raises InvalidInput for another listing's token."""
    digest, *place = decoded(token, "page_token", 1 + size)
    if digest != _digest(scope):
        raise other_listing()
    return place


def other_listing() -> InvalidInput:
    """The refusal of a page token of a listing with other conditions."""
    return InvalidInput(
        "the page token belongs to a listing with other conditions",
        code="BAD_PAGE_TOKEN",
        field="page_token",
        remedy="keep the filter while paging, or start without a token",
    )


def encoded(parts: Sequence[str]) -> str:
    """The token that stands for `parts`."""
    return base64.urlsafe_b64encode(json.dumps(list(parts)).encode()).decode().rstrip("=")


def decoded(token: str, field: str, *counts: int) -> list[str]:
    """What `encoded` was given, of one of these `counts`. Raises InvalidInput, naming `field`."""
    try:
        padded = token + "=" * (-len(token) % 4)
        texts = _TEXTS.validate_json(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        texts = []
    if len(texts) not in counts:
        raise InvalidInput(
            "this token was not given by this server",
            code=f"BAD_{field.upper()}",
            field=field,
            remedy="use a token as it came, or none",
        )
    return texts


def _digest(scope: str) -> str:
    return hashlib.sha256(scope.encode()).hexdigest()[:16]
