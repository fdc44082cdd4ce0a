"""The audit log: who changed what, when and from where, as JSON lines in the store."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from saeserve.errors import ServiceError
from saeserve.platform.store import ArtifactStore

FOLDER = "audit"
log = logging.getLogger("saeserve.audit")


class AuditLog:
    """Appends to `audit/<day>.jsonl`, in UTC, and removes files older than `days`."""

    def __init__(
        self, store: ArtifactStore, days: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._days = days
        self._clock = clock
        self._lock = threading.Lock()
        self._pruned = ""

    def write(self, entry: Mapping[str, object]) -> None:
        """Append a line with the time and `entry`; one that the store does not take is logged."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        line = json.dumps({"time": now.isoformat(timespec="milliseconds"), **entry})
        with self._lock:
            try:
                self._store.append(f"{FOLDER}/{now:%Y-%m-%d}.jsonl", f"{line}\n".encode())
                self._prune(now)
            except (OSError, ServiceError) as error:
                log.error("the store does not take this line (%s): %s", error, line)  # noqa: TRY400 - the line is what counts

    def _prune(self, now: datetime) -> None:
        today = f"{now:%Y-%m-%d}"
        if self._pruned == today:
            return
        oldest = f"{now - timedelta(days=self._days):%Y-%m-%d}.jsonl"
        for name in self._store.names(FOLDER):
            if name < oldest:
                self._store.remove(f"{FOLDER}/{name}")
        self._pruned = today
