"""Pages of listings, cut by their size in bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import Message

MessageT = TypeVar("MessageT", bound=Message)

PAGE_BYTES = 2**20
"""A page ends early rather than grow beyond this; gRPC clients take 4 MiB unless configured."""


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
