"""Checks the names that requests bring before they become paths."""

from __future__ import annotations

import re

from saeserve.core.specs.names import check_name
from saeserve.registry.refusals import bad_name

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.(?:npy|safetensors)")


def checked_name(name: str, field: str) -> str:
    """`name` when it may name a data set, model or alias. Raises InvalidInput."""
    try:
        return check_name(name)
    except ValueError as error:
        raise bad_name(
            f"{name!r} is not a valid name: {error}", field=field, remedy="rename it"
        ) from None


def checked_file_name(name: str, field: str) -> str:
    """`name` when it may name an activation file. Raises InvalidInput."""
    if not _FILE.fullmatch(name):
        raise bad_name(
            f"{name!r} is not a valid file name: letters, digits, '.', '_' and '-', ending in .npy "
            "or .safetensors",
            field=field,
            remedy="rename the file; the path before it is not part of the name",
        )
    return name
