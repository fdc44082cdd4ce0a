"""The requests of one call on their way to its handler: counted, paced and parsed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from saeserve.platform.auth.limiter import Usage
from saeserve.platform.messages import MessageReader, Parse


class Requests:
    """Reads the messages of a call to `method`; `usage` is what its token has used."""

    def __init__(
        self, reader: MessageReader, method: str, parse: Parse | None, usage: Usage | None
    ) -> None:
        self._reader = reader
        self._method = method
        self._parse = parse
        self._usage = usage
        self.first: object = None
        """The first message that was read."""

    def read(self, data: bytes) -> object:
        """The message in `data`. Raises InvalidInput."""
        if self._usage is not None:
            self._usage.charge(len(data))
        return self._parsed(data)

    async def each(self, requests: AsyncIterator[bytes]) -> AsyncIterator[object]:
        """The messages of a stream, no faster than the token's limit: a transfer that was refused
        half-way would only be repeated."""
        async for data in requests:
            wait = 0.0 if self._usage is None else self._usage.charge(len(data))
            if wait:
                await asyncio.sleep(wait)
            yield self._parsed(data)

    def into(self, request: Any, *, streaming: bool) -> Any:  # noqa: ANN401 - bytes or their iterator
        """What a handler takes: a message, or an iterator of messages."""
        return self.each(request) if streaming else self.read(request)

    def _parsed(self, data: bytes) -> object:
        message = self._reader.read(self._method, self._parse, data)
        if self.first is None:
            self.first = message
        return message
