"""Plain data held against a message of the API: every name and value that does not fit is named
as a person wrote it, and counts such as 200k become numbers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from numbers import Integral, Real
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from saeserve.client.quantities import quantity
from saeserve.client.refusals import bad_spec

_WHOLE = {FieldDescriptor.CPPTYPE_INT64: 63, FieldDescriptor.CPPTYPE_INT32: 31}
"""Integer types of the API's specs, with the bits of their largest value."""
_REAL = {FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT}
_NAMES_TOLD = 40


def fitted(value: object, kind: Descriptor, path: str = "") -> dict[str, Any]:
    """`value` as the message `kind` takes it; keys in the API's own form.

    Raises InvalidArgumentError, whose message has a line for every wrong name and value and whose
    `field` is the path of the first.
    """
    faults: list[tuple[str, str]] = []
    result = _message(value, kind, path, faults)
    if faults:
        raise bad_spec(
            "the job spec has "
            + ("an error: " if len(faults) == 1 else f"{len(faults)} errors: ")
            + "; ".join(told for _, told in faults),
            field=faults[0][0],
            violations=faults if len(faults) > 1 else (),
        )
    return result


def _message(
    value: object, kind: Descriptor, path: str, faults: list[tuple[str, str]]
) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        takes = ", ".join(_shown(kind))
        faults.append((path, f"{path or 'the spec'} is {_quoted(value)}, and has fields: {takes}"))
        return {}
    result: dict[str, Any] = {}
    for name, inner in cast("Mapping[object, object]", value).items():
        field = _field(str(name), kind)
        here = f"{path}.{name}" if path else str(name)
        if field is None:
            faults.append((here, _unknown(str(name), path, kind)))
        elif field.is_repeated:
            result[field.name] = _list(inner, field, here, faults)
        elif inner is not None or field.message_type is not None:
            result[field.name] = _single(inner, field, here, faults)
    _one_of_each(result, kind, path, faults)
    return result


def _one_of_each(
    result: Mapping[str, Any], kind: Descriptor, path: str, faults: list[tuple[str, str]]
) -> None:
    """Fields that exclude each other, such as the architectures."""
    for group in kind.oneofs:
        given = [field.name for field in group.fields if field.name in result]
        if len(given) > 1:
            where = path or "the spec"
            faults.append((path, f"{where} has {' and '.join(given)}; give one {group.name}"))


def _list(
    value: object, field: FieldDescriptor, path: str, faults: list[tuple[str, str]]
) -> list[Any]:
    if value is None:
        return []
    items = _items(value)
    if items is None:
        faults.append((path, f"{path} is {_quoted(value)}; write a list: [{_plain(value)}]"))
        return []
    return [_single(item, field, f"{path}[{n}]", faults) for n, item in enumerate(items)]


def _items(value: object) -> Iterable[object] | None:
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        return None
    return cast("Iterable[object]", value)


def _single(
    value: object, field: FieldDescriptor, path: str, faults: list[tuple[str, str]]
) -> object:
    if field.message_type is not None:
        return _message(value, field.message_type, path, faults)
    taken, wanted = _scalar(value, field)
    if wanted:
        faults.append((path, f"{path} is {_quoted(value)}; {wanted}"))
    return taken


def _scalar(value: object, field: FieldDescriptor) -> tuple[object, str]:
    """What the API takes for `value`, or what it wants in its place."""
    if field.cpp_type in _WHOLE:
        return _whole(value, _WHOLE[field.cpp_type])
    if field.cpp_type in _REAL:
        return _real(value)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return value, "" if isinstance(value, bool) else "write true or false"
    if isinstance(value, Mapping):
        return "", "it is text and has no fields"
    return value, "" if isinstance(value, str) else f"write text: {str(value)!r}"


def _whole(value: object, bits: int) -> tuple[object, str]:
    number = _exact(value)
    if number is None or not number.is_finite() or number != number.to_integral_value():
        return 0, "write a whole number such as 50000, 50k or 2M"
    if abs(number) >= 1 << bits:
        return 0, f"the largest is {(1 << bits) - 1:,}"
    return int(number), ""


def _exact(value: object) -> Decimal | None:
    if isinstance(value, str):
        return quantity(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    return Decimal(int(value) if isinstance(value, Integral) else float(value))


def _real(value: object) -> tuple[object, str]:
    if isinstance(value, str):
        number = quantity(value)
        return (float(number), "") if number is not None else _named_float(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return 0.0, "write a number"
    try:
        return float(value), ""
    except OverflowError:
        return 0.0, "it is too large"


def _named_float(text: str) -> tuple[object, str]:
    """Infinities and NaN have names, and the server says where it takes none."""
    try:
        return float(text), ""
    except ValueError:
        return 0.0, "write a number such as 0.001, 1e-3 or 200k"


def _field(name: str, kind: Descriptor) -> FieldDescriptor | None:
    """By the API's own name, or by the name that JSON clients of gRPC give it."""
    own = kind.fields_by_name.get(name)
    return own if own is not None else kind.fields_by_camelcase_name.get(name)


def _unknown(name: str, path: str, kind: Descriptor) -> str:
    near = difflib.get_close_matches(name.lower(), list(kind.fields_by_name), 1, 0.6)
    where = f"{path} has" if path else "a job spec has"
    near = near or [
        f"{field.name}.{name}"
        for field in kind.fields
        if field.message_type is not None and name in field.message_type.fields_by_name
    ]
    if near:
        return f"{where} no field {name!r}; did you mean {' or '.join(near)}?"
    return f"{where} no field {name!r}; it has: {', '.join(_shown(kind))}"


def _shown(kind: Descriptor) -> list[str]:
    names = list(kind.fields_by_name)
    return names if len(names) <= _NAMES_TOLD else [*names[:_NAMES_TOLD], "…"]


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _plain(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) else "…"
