"""Small documents of the store as typed values; damage raises DamagedError."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from saeserve.errors import DamagedError
from saeserve.platform.store import ArtifactStore

Document = TypeVar("Document", bound=BaseModel)


def read_stored(store: ArtifactStore, key: str, kind: type[Document]) -> Document | None:
    """The document at `key`, or None when there is none. Raises DamagedError naming the key."""
    data = store.read(key)
    if data is None:
        return None
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise damaged(key, str(error.errors(include_url=False)[0]["msg"])) from None


def damaged(key: str, why: str) -> DamagedError:
    """The error for a file of the store that does not hold what was written to it."""
    return DamagedError(
        f"{key} is damaged: {why}",
        remedy="restore the file from a copy, or delete what it belongs to and make it again",
    )
