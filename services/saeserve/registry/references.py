"""Model references: name, name@3, name@alias and models/<name>/versions/<n>."""

from __future__ import annotations

import re
from dataclasses import dataclass

from saeserve.errors import InvalidInput
from saeserve.registry.names import checked_name
from saeserve.registry.refusals import bad_name, bad_reference

_RESOURCE = re.compile(r"models/([^/]+)/versions/([1-9][0-9]{0,8})")


@dataclass(frozen=True)
class Reference:
    """A parsed reference; version 0 and no alias mean the newest version."""

    name: str
    version: int = 0
    alias: str = ""


def resource_of(name: str, version: int) -> str:
    """`models/NAME/versions/VERSION`, as the API and the events write it."""
    return f"models/{name}/versions/{version}"


def parse_reference(text: str, field: str = "model") -> Reference:
    """Read a reference. Raises InvalidInput, naming `field`, for what is none."""
    if match := _RESOURCE.fullmatch(text):
        return Reference(checked_name(match[1], field), int(match[2]))
    name, at, tag = text.partition("@")
    if "/" in text or (at and not tag):
        raise _bad_reference(text, field)
    checked_name(name, field)
    if not at:
        return Reference(name)
    if tag.isascii() and tag.isdigit():
        return Reference(name, _version(tag, text, field))
    return Reference(name, alias=checked_alias(tag, field))


def checked_alias(alias: str, field: str) -> str:
    """`alias` when it may name one. Raises InvalidInput; digits alone would read as a version."""
    if alias.isdigit():
        raise bad_name(
            f"the alias {alias!r} would read as a version",
            field=field,
            remedy="put a letter into it",
        )
    return checked_name(alias, field)


def _version(digits: str, text: str, field: str) -> int:
    if len(digits) > 9 or int(digits) < 1:
        raise _bad_reference(text, field)
    return int(digits)


def _bad_reference(text: str, field: str) -> InvalidInput:
    return bad_reference(
        f"{text!r} is not a model reference",
        field=field,
        remedy="write name, name@version, name@alias or models/<name>/versions/<n>",
    )
