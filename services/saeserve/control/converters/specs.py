"""Specs: plain data to messages and back. Field names are equal, so there is no table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from saeserve.v1 import spec_pb2

Plain = dict[str, object]


def to_plain(message: Message) -> Plain:
    """What is set in `message`, with integers as integers (JSON's mapping makes them text)."""
    return {field.name: _plain(value) for field, value in message.ListFields()}


def spec_message(spec: Mapping[str, object]) -> spec_pb2.JobSpec:
    """A stored spec as a message; fields of a newer release are left out."""
    return ParseDict(dict(spec), spec_pb2.JobSpec(), ignore_unknown_fields=True)


def _plain(value: Any) -> object:  # noqa: ANN401 - ListFields gives what the field's type says
    if isinstance(value, Message):
        return to_plain(value)
    if isinstance(value, str | bool | int | float):
        return value
    return [_plain(item) for item in value]
