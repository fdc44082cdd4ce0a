"""Ends a transfer whose caller neither takes nor sends anything, so that it holds no place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import TypeVar

from saeserve.errors import Unavailable

STALLED_AFTER_S = 120.0
"""Longest time that one chunk of about 1 MiB may take."""

Message = TypeVar("Message")


async def in_time(step: Awaitable[Message]) -> Message:
    """What `step` gives. Raises Unavailable when that takes longer than `STALLED_AFTER_S`."""
    try:
        async with asyncio.timeout(STALLED_AFTER_S):
            return await step
    except TimeoutError:
        raise Unavailable(
            f"nothing was transferred for {STALLED_AFTER_S:g} s",
            code="TRANSFER_STALLED",
            remedy="repeat the transfer: it goes on from where it stopped",
        ) from None


async def each_in_time(messages: AsyncIterator[Message]) -> AsyncGenerator[Message]:
    """The messages, none of which may take longer than `in_time` allows."""
    while True:
        try:
            message = await in_time(anext(messages))
        except StopAsyncIteration:
            return
        yield message
