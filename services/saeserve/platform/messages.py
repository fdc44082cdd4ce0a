"""Requests as bytes become messages: small enough, and well formed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from google.protobuf.message import DecodeError

from saeserve.errors import InvalidInput

USUAL_BYTES = 1024 * 1024
"""What a request may have where its method allows no more."""
SLACK_BYTES = 64 * 1024
"""Room for the other fields of a message whose data have the full size."""

_log = logging.getLogger(__name__)

Parse = Callable[[bytes], object]


class MessageReader:
    """Reads the requests of a server; `limits` are bytes by full method name, `/service/method`."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self._limits = dict(limits)

    @property
    def largest(self) -> int:
        """Bytes of the largest message that any method takes."""
        return max([USUAL_BYTES, *self._limits.values()]) + SLACK_BYTES

    def read(self, method: str, parse: Parse | None, data: bytes) -> object:
        """The message in `data`; the bytes themselves when the method takes no messages.

        Raises InvalidInput for data that are too large or not a valid message.
        """
        limit = self._limits.get(method, USUAL_BYTES)
        if len(data) > limit + SLACK_BYTES:
            raise InvalidInput(
                f"the request has {len(data)} bytes; this method takes {limit}",
                code="MESSAGE_TOO_LARGE",
                remedy="send less in one request",
            )
        try:
            return data if parse is None else parse(data)
        except (DecodeError, ValueError):
            _log.warning("%s: %d bytes that are not its request were refused", method, len(data))
            raise InvalidInput(
                "the request is not a message of this method",
                code="MALFORMED",
                remedy="compile the client from protos/saeserve/v1",
            ) from None
