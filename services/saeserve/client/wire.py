"""Messages and timestamps as plain Python values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

_TEXT_IN_JSON = {FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64}


def plain(message: Message) -> dict[str, Any]:
    """A message as plain data with the API's own field names; whole numbers are numbers, which
    JSON's mapping of messages makes text."""
    data = MessageToDict(message, preserving_proto_field_name=True)
    return _numbers(data, cast("Descriptor", message.DESCRIPTOR))


def instant(stamp: Timestamp) -> datetime | None:
    """A timestamp off the wire; None when it is unset."""
    return stamp.ToDatetime(UTC) if stamp.seconds else None


def _numbers(data: Mapping[str, Any], kind: Descriptor) -> dict[str, Any]:
    return {name: _value(value, kind.fields_by_name[name]) for name, value in data.items()}


def _value(value: Any, field: FieldDescriptor) -> Any:  # noqa: ANN401 - of any field
    of = field.message_type
    if of is not None and of.GetOptions().map_entry:
        entries, inner = cast("Mapping[str, Any]", value), of.fields_by_name["value"]
        return {key: _single(each, inner) for key, each in entries.items()}
    if field.is_repeated:
        return [_single(each, field) for each in cast("list[Any]", value)]
    return _single(value, field)


def _single(value: Any, field: FieldDescriptor) -> Any:  # noqa: ANN401 - of any field
    if field.message_type is not None and isinstance(value, dict):
        return _numbers(cast("Mapping[str, Any]", value), field.message_type)
    return int(value) if field.cpp_type in _TEXT_IN_JSON else value
