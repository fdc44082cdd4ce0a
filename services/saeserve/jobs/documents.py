"""Reading and committing the JSON documents of a job."""

from __future__ import annotations

import json
from typing import TypeVar, cast

from pydantic import BaseModel, ValidationError

from saeserve.jobs.errors import RecordUnreadable
from saeserve.jobs.record import JOB_FORMAT
from saeserve.platform.store import ArtifactStore

Document = TypeVar("Document", bound=BaseModel)


def read(store: ArtifactStore, key: str, kind: type[Document]) -> Document | None:
    """The document at `key`, or None when it does not exist.

    Raises RecordUnreadable when it is damaged or of a newer format.
    """
    data = store.read(key)
    if data is None:
        return None
    _check_format(key, data)
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise RecordUnreadable(key, f"{where}: {first['msg']}") from error


def commit(store: ArtifactStore, key: str, document: BaseModel) -> bool:
    """Put `document` at `key` unless something is there; True for the one that did."""
    return store.put_if_absent(key, document.model_dump_json(indent=1).encode())


def _check_format(key: str, data: bytes) -> None:
    try:
        raw = cast("object", json.loads(data))
    except ValueError as error:
        raise RecordUnreadable(key, "it is not JSON") from error
    version = (
        cast("dict[str, object]", raw).get("format_version") if isinstance(raw, dict) else None
    )
    if isinstance(version, int) and version > JOB_FORMAT:
        raise RecordUnreadable(key, f"format {version} is newer than this release's {JOB_FORMAT}")
