"""No list and no text of any spec is unbounded, and the error names its path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from saeserve.control.handlers.bounds import MAX_ENTRIES, MAX_TEXT, check_spec
from saeserve.control.servicers.jobs import order_of
from saeserve.errors import InvalidInput
from saeserve.v1 import job_service_pb2, spec_pb2

Path = tuple[FieldDescriptor, ...]
ONE: dict[int, object] = {FieldDescriptor.CPPTYPE_STRING: "x", FieldDescriptor.CPPTYPE_BOOL: True}


def paths(of: Descriptor, before: Path = ()) -> Iterator[Path]:
    """Every field of a message and of the messages in it."""
    for field in of.fields:
        yield (*before, field)
        if field.message_type is not None:
            yield from paths(field.message_type, (*before, field))


def name(path: Path) -> str:
    return ".".join(field.name for field in path)


def is_list(path: Path) -> bool:
    return path[-1].is_repeated


def is_text(path: Path) -> bool:
    return path[-1].cpp_type == FieldDescriptor.CPPTYPE_STRING


ALL = list(paths(spec_pb2.JobSpec.DESCRIPTOR))
LISTS = {name(path): path for path in ALL if is_list(path)}
TEXTS = {name(path): path for path in ALL if is_text(path)}


def filled(path: Path, *, entries: int, text: str) -> tuple[spec_pb2.JobSpec, str]:
    """A spec in which the field is set, and the field's path in the request."""
    spec = spec_pb2.JobSpec()
    message: Any = spec
    told = "spec"
    for field in path[:-1]:
        told += f".{field.name}" + ("[0]" if field.is_repeated else "")
        message = getattr(message, field.name)
        message = message.add() if field.is_repeated else message
        message.SetInParent()
    last = path[-1]
    told += f".{last.name}"
    if not last.is_repeated:
        setattr(message, last.name, text)
    elif last.message_type is not None:
        for _ in range(entries):
            getattr(message, last.name).add()
    else:
        value: Any = text if is_text(path) else ONE.get(last.cpp_type, 1)
        getattr(message, last.name).extend([value] * entries)
    return spec, told + ("[0]" if is_text(path) and last.is_repeated and entries == 1 else "")


def check(spec: spec_pb2.JobSpec) -> None:
    order_of(job_service_pb2.SubmitJobRequest(spec=spec)).check()


def test_the_known_lists_are_among_them() -> None:
    wanted = {"harvest.texts", "ingest.sources", "train.resample.steps", "train.sweep.lr"}
    assert wanted <= LISTS.keys()


@pytest.mark.parametrize("field", LISTS)
def test_every_list_is_bounded(field: str) -> None:
    spec, told = filled(LISTS[field], entries=MAX_ENTRIES + 1, text="x")
    with pytest.raises(InvalidInput, match=str(MAX_ENTRIES)) as caught:
        check(spec)
    assert caught.value.field == told
    spec, _ = filled(LISTS[field], entries=MAX_ENTRIES, text="x")
    check(spec)


@pytest.mark.parametrize("field", TEXTS)
def test_every_text_is_bounded(field: str) -> None:
    spec, told = filled(TEXTS[field], entries=1, text="x" * (MAX_TEXT + 1))
    with pytest.raises(InvalidInput, match=str(MAX_TEXT)) as caught:
        check(spec)
    assert caught.value.field == told
    spec, _ = filled(TEXTS[field], entries=1, text="x" * MAX_TEXT)
    check(spec)


def test_lists_within_lists_are_bounded_too() -> None:
    with pytest.raises(InvalidInput) as caught:
        check_spec({"a": [{"b": [1]}, {"b": [1] * (MAX_ENTRIES + 1)}]}, "spec")
    assert caught.value.field == "spec.a[1].b"


@pytest.mark.parametrize(("field", "count"), [("labels", 65), ("waits_for", 101)])
def test_what_stands_beside_the_spec_is_bounded(field: str, count: int) -> None:
    names = [f"j-{number:020d}" for number in range(count)]
    value: Any = dict.fromkeys(names, "x") if field == "labels" else names
    with pytest.raises(InvalidInput) as caught:
        order_of(job_service_pb2.SubmitJobRequest(**{field: value})).check()
    assert caught.value.field == field
