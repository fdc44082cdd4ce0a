"""Counts as people write them: 200k, 1.5M, 2B."""

from __future__ import annotations

import re
from decimal import Decimal

_SCALES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_FORM = re.compile(r"([+-]?(?:\d[\d_,]*)?(?:\.\d+)?(?:e[+-]?\d{1,3})?)\s*([kmbgt]?)", re.IGNORECASE)


def quantity(text: str) -> Decimal | None:
    """The number that `text` stands for, such as 50000, 50_000, 50k, 1.5M or 2e6; None where it
    is not written so (also "inf" and "nan")."""
    found = _FORM.fullmatch(text.strip())
    if found is None or not any(character.isdigit() for character in found[1].partition("e")[0]):
        return None
    digits = found[1].replace("_", "").replace(",", "")
    return Decimal(digits) * _SCALES[found[2].lower()]
