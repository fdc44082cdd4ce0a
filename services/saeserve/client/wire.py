"""Messages and timestamps as plain Python values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp


def plain(message: Message) -> dict[str, Any]:
    """A message as plain data with the API's own field names."""
    return MessageToDict(message, preserving_proto_field_name=True)


def instant(stamp: Timestamp) -> datetime | None:
    """A timestamp off the wire; None when it is unset."""
    return stamp.ToDatetime(UTC) if stamp.seconds else None
