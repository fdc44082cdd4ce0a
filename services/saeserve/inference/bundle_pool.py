"""Open feature bundles, kept for the next request and forgotten once their files are gone."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from saeserve.core.features.bundle import FeatureBundle
from saeserve.core.features.schema import DATABASE_FILE
from saeserve.errors import InvalidInput
from saeserve.inference.metrics import InferenceMetrics

MOST_IDLE = 16
"""Connections that are kept open without a request; each has up to 8 MiB of pages."""

Identity = tuple[int, int, int] | None
"""Device, inode and time of the database: another one in its place is another bundle."""
Open = Callable[[Path], FeatureBundle]


@dataclass(frozen=True, eq=False)
class Reader:
    """An open bundle, and the files that it was opened on."""

    folder: Path
    identity: Identity
    bundle: FeatureBundle


class BundlePool:
    """Threads share it; each open bundle has one thread at a time, so that none waits for another's
    query. The least recently used are closed first."""

    def __init__(self, metrics: InferenceMetrics, most_idle: int = MOST_IDLE) -> None:
        self._metrics = metrics
        self._most_idle = most_idle
        self._idle: list[Reader] = []
        """Least recently used first."""
        self._lock = Lock()
        self._closed = False

    def borrow(self, folder: Path, opened: Open) -> Reader:
        """A reader of the bundle in `folder`, for `held`; `opened` opens one where none is idle,
        and its errors are raised."""
        identity = _identity(folder)
        return self._take(folder, identity) or self._open(folder, identity, opened)

    @contextmanager
    def held(self, reader: Reader) -> Generator[FeatureBundle]:
        """The borrowed bundle, given back when the block ends; closed where that failed by another
        reason than the request."""
        usable = False
        try:
            yield reader.bundle
            usable = True
        except InvalidInput:
            usable = True
            raise
        finally:
            self._give_back(reader, usable=usable)

    def forget_missing(self) -> None:
        """Close idle readers of bundles that are gone, which would keep their disk."""
        with self._lock:
            gone = [each for each in self._idle if _identity(each.folder) != each.identity]
            self._idle = [each for each in self._idle if each not in gone]
        self._close_all(gone)

    def close(self) -> None:
        """Close everything; what is in use, once it is given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        self._close_all(idle)

    def _take(self, folder: Path, identity: Identity) -> Reader | None:
        with self._lock:
            for each in reversed(self._idle):
                if each.folder == folder and each.identity == identity:
                    self._idle.remove(each)
                    return each
        return None

    def _open(self, folder: Path, identity: Identity, opened: Open) -> Reader:
        try:
            reader = Reader(folder, identity, opened(folder))
        except BaseException:
            self._metrics.bundle_opens.labels("error").inc()
            raise
        self._metrics.bundle_opens.labels("ok").inc()
        self._metrics.bundles_open.inc()
        return reader

    def _give_back(self, reader: Reader, *, usable: bool) -> None:
        with self._lock:
            kept = usable and not self._closed
            if kept:
                self._idle.append(reader)
            over = len(self._idle) - self._most_idle
            surplus = self._idle[:over] if over > 0 else []
            self._idle = self._idle[len(surplus) :]
        self._close_all(surplus if kept else [reader])

    def _close_all(self, readers: list[Reader]) -> None:
        for each in readers:
            each.bundle.close()
            self._metrics.bundles_open.dec()


def _identity(folder: Path) -> Identity:
    """None where there is no database."""
    try:
        found = os.stat(folder / DATABASE_FILE)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
