"""Ids of calls, which lines of the log name them by."""

from __future__ import annotations

import re
import uuid

from saeserve.platform.answers import Context
from saeserve.platform.logging import of_request

METADATA = "x-request-id"
_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)


def name_request(context: Context) -> None:
    """Name the call by its metadata x-request-id, where that is a short word, else by a new id."""
    given = (value for key, value in context.invocation_metadata() or () if key == METADATA)
    known = next((str(value) for value in given if _ID.fullmatch(str(value))), "")
    of_request(known or uuid.uuid4().hex[:16])
