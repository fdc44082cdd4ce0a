"""How fast finished jobs trained, by machine kind and architecture: what plans are scaled from.

One small document of each pair, `speeds/<machine>/<architecture>.json`, replaced in one piece. Two
jobs that end at the same moment may lose one record, which costs a prediction nothing.
"""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict, ValidationError

from saeserve.core.planning.machine import SpeedRecord
from saeserve.platform.store import ArtifactStore

FORMAT = 1
KEPT = 16
"""Latest jobs that a document holds."""


class SpeedDocument(BaseModel):
    """What `speeds/<machine>/<architecture>.json` holds, oldest job first."""

    model_config = ConfigDict(frozen=True)

    format_version: int = FORMAT
    machine: str
    architecture: str
    records: tuple[SpeedRecord, ...] = ()


class SpeedBook:
    """The records of one store."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def records(self, machine: str, architecture: str) -> tuple[SpeedRecord, ...]:
        """Speeds of jobs on machines of that kind. A record that cannot be read, or is of a later
        release, is ignored: it only predicts."""
        data = self._store.read(_key(machine, architecture))
        try:
            found = SpeedDocument.model_validate_json(data) if data is not None else None
        except ValidationError:
            return ()
        return found.records if found is not None and found.format_version <= FORMAT else ()

    def add(self, machine: str, record: SpeedRecord) -> None:
        """Keep a job's record, in place of one that an earlier attempt of it left. Raises OSError
        and Unavailable."""
        architecture = record.shape.architecture
        before = self.records(machine, architecture)
        others = tuple(each for each in before if each.job != record.job)
        document = SpeedDocument(
            machine=machine,
            architecture=architecture,
            records=(*others, record)[-KEPT:],
        )
        self._store.replace(
            _key(machine, architecture), document.model_dump_json(indent=1).encode()
        )


def _key(machine: str, architecture: str) -> str:
    return f"speeds/{hashlib.sha256(machine.encode()).hexdigest()[:16]}/{architecture}.json"
