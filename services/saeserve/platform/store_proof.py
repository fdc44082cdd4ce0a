"""A store proves that it is the store: by a marker, before anything is concluded from an absence.

A folder whose volume is not mounted looks like a store that holds nothing. Whoever concluded from
it would give up jobs, or write what is hidden once the volume is back.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from saeserve.errors import Unavailable
from saeserve.platform.store_errors import store_unavailable

MARKER = "store.json"
_NO_CONTENTS = {MARKER, "lost+found"}


class Marker(BaseModel):
    """What store.json holds: written once, when the store is first used."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format_version: int = 1
    id: str
    created: float

    @staticmethod
    def new(id: str = "") -> Marker:
        """A marker with `id`, or with a fresh one."""
        return Marker(id=id or uuid.uuid4().hex, created=time.time())


def read_marker(root: Path) -> str | None:
    """Id of the store at `root`; None without a marker. Raises Unavailable when unreadable."""
    try:
        return Marker.model_validate_json((root / MARKER).read_bytes()).id
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise _unavailable(
            f"{MARKER} of the artifact store {root} cannot be read: {why}",
            "restore the file, or make the store readable",
        ) from error


def has_contents(root: Path) -> bool:
    """Whether anything was stored below `root`; empty folders and hidden files do not count."""
    try:
        entries = [each for each in root.iterdir() if each.name not in _NO_CONTENTS]
    except (FileNotFoundError, NotADirectoryError):
        return False
    return any(
        not each.name.startswith(".") and (not each.is_dir() or any(each.iterdir()))
        for each in entries
    )


class StoreProof:
    """Call it to see that the folder is the store still. Raises Unavailable when it is not.

    Without an index to ask (inference), the first marker that is seen counts, contents without a
    marker are a store of an earlier release, and an empty folder is a volume that is not there.
    """

    def __init__(self, root: Path, id: str = "") -> None:
        """`id`: the marker that is expected, where somebody else has seen it."""
        self.root = root.resolve()
        self._id = id

    @property
    def id(self) -> str:
        """Id of the store; "" while none was seen."""
        return self._id

    def __call__(self) -> None:
        """Raise Unavailable unless this is the store."""
        marker = read_marker(self.root)
        if marker is None:
            if self._id or not has_contents(self.root):
                raise self.missing()
            return
        if not self._id:
            self._id = marker
        if marker != self._id:
            raise self.another(marker, self._id)

    def missing(self) -> Unavailable:
        """The error for a folder without marker that cannot be the store."""
        return _unavailable(
            f"the folder {self.root} holds no {MARKER}: the artifact store is not there",
            "mount the store's volume; a new store is set up by the control service",
        )

    def another(self, marker: str, expected: str) -> Unavailable:
        """The error for a folder that is another store."""
        return _unavailable(
            f"the folder {self.root} holds the artifact store {marker}, not {expected}",
            "mount the store that belongs to this deployment; to begin with another one, empty "
            "the job index (Redis) and restart the services",
        )


def _unavailable(message: str, remedy: str) -> Unavailable:
    return store_unavailable(message, remedy=remedy)
