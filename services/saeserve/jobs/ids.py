"""Job ids: sortable by the time of submission, and unique without asking anybody."""

from __future__ import annotations

import secrets
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32 in lower case: ascending in ASCII, so that text order is number order."""

LENGTH = 20
_RANDOM_BITS = 52


def new_job_id(seconds: float | None = None) -> str:
    """`j-` and 20 characters: 48 bits of milliseconds, then 52 random bits.

    `seconds` since the epoch; now when None.
    """
    milliseconds = int((time.time() if seconds is None else seconds) * 1000)
    number = (milliseconds << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
    digits = (ALPHABET[(number >> shift) & 31] for shift in range(5 * (LENGTH - 1), -1, -5))
    return "j-" + "".join(digits)


def new_owner() -> str:
    """A random id for one lease holder."""
    return secrets.token_hex(16)
