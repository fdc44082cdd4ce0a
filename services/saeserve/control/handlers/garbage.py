"""Finding and removing what nobody needs: temporaries, exports of attempts, old checkpoints, what
evaluations kept of data sets that are gone, and bundles of models that are.

Published models, data sets, exports and the records of jobs are never among it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from saeserve.errors import ServiceError
from saeserve.jobs.errors import RecordUnreadable
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.retention import leftovers_of
from saeserve.platform.leftovers import Leftover, size_of, temporaries
from saeserve.platform.store import ArtifactStore
from saeserve.registry.bundles import Bundles, bundle_key
from saeserve.registry.layout import EVALUATIONS
from saeserve.registry.visibility import Visibility

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """How long things stay, in seconds."""

    checkpoint_s: float = 7 * 86_400.0
    """The last checkpoint of a job that has ended."""
    safe_s: float = 86_400.0
    """A temporary that nobody holds, after its last change."""


@dataclass(frozen=True)
class Swept:
    """A leftover, and what was done about it."""

    leftover: Leftover
    removed: bool = False
    error: str = ""
    """Why it could not be removed."""


class Garbage:
    """Looks through the store; `clock` gives seconds since the epoch."""

    def __init__(
        self,
        store: ArtifactStore,
        retention: Retention,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._ledger = Ledger(store)
        self._visible = Visibility(store)
        self._retention = retention
        self._clock = clock

    def sweep(self, *, execute: bool, checkpoint_s: float | None = None) -> Iterator[Swept]:
        """Everything that was found, one by one; with `execute`, what can go is removed.

        `checkpoint_s` takes the place of the setting.
        """
        keep_s = self._retention.checkpoint_s if checkpoint_s is None else checkpoint_s
        for found in self._found(keep_s):
            yield self._remove(found) if execute and not found.kept else Swept(found)

    def _found(self, keep_s: float) -> Iterator[Leftover]:
        now, safe_s = self._clock(), self._retention.safe_s
        yield from temporaries(self._store, safe_s, now)
        yield from self._evaluations()
        yield from self._bundles()
        for job in self._store.names("jobs"):
            try:
                # As a list: what is removed on the way must not change what is found.
                yield from list(
                    leftovers_of(self._store, job, keep_s=keep_s, safe_s=safe_s, now=now)
                )
            except FileNotFoundError:
                continue  # the job was deleted, or another control service sweeps too
            except RecordUnreadable as error:
                yield Leftover(f"jobs/{job}", 0, "a job whose record is damaged", error.text())

    def _evaluations(self) -> Iterator[Leftover]:
        for dataset in self._store.names(EVALUATIONS):
            if not self._store.exists(f"datasets/{dataset}"):
                key = f"{EVALUATIONS}/{dataset}"
                size = size_of(self._store.path(key))
                yield Leftover(key, size, "figures of a data set that is gone")

    def _bundles(self) -> Iterator[Leftover]:
        for name, version in Bundles(self._store).versions():
            if not self._visible.of(name, version):
                key = bundle_key(name, version)
                size = size_of(self._store.path(key))
                yield Leftover(key, size, "features of a model version that is gone")

    def _remove(self, found: Leftover) -> Swept:
        try:
            self._store.remove(found.key)
        except OSError as error:
            return Swept(found, error=error.strerror or type(error).__name__)
        except ServiceError as error:
            return Swept(found, error=error.message)
        return Swept(found, removed=True)


def sweep_and_log(garbage: Garbage) -> None:
    """Remove what can go; one line in the log when there was something."""
    swept = [each for each in garbage.sweep(execute=True) if not each.leftover.kept]
    gone = [each.leftover for each in swept if each.removed]
    if gone:
        size = sum(each.bytes for each in gone)
        log.info("swept %d leftovers of %d bytes: %s …", len(gone), size, gone[0].key)
    for failed in (each for each in swept if each.error):
        log.error("%s cannot be removed: %s", failed.leftover.key, failed.error)
