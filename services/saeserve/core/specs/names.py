"""Names of data sets, models and aliases: one grammar, safe as a path segment."""

from __future__ import annotations

import re

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


def check_name(name: str) -> str:
    """Return `name`, or raise ValueError saying what a name may be."""
    if not NAME.fullmatch(name) or ".." in name:
        raise ValueError(
            "a name is 1 to 64 of a-z 0-9 . _ -, begins and ends with a letter or digit, "
            "and holds no '..'"
        )
    return name
