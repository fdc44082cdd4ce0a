"""Stops a job process whose attempt was superseded, also while its worker cannot tell it so."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Self

from saeserve.errors import ServiceError
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.record import Lease

_log = logging.getLogger("saeserve.worker.job")
_LOOK_EVERY_S = 2.0


class FenceWatch:
    """A thread that calls `stop` once when a later claim or a result stands in the store.

    A worker that is frozen or cut off from the index tells its job process nothing. Without this
    the process would use its device until its next commit. What it commits is checked anyway.
    """

    def __init__(
        self,
        ledger: Ledger,
        lease: Lease,
        stop: Callable[[], None],
        look_every_s: float = _LOOK_EVERY_S,
    ) -> None:
        self._ledger, self._lease, self._stop = ledger, lease, stop
        self._look_every_s = look_every_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fence-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._look_every_s):
            if self._superseded():
                _log.warning("%s: attempt %d is superseded", self._lease.job, self._lease.epoch)
                self._stop()
                return

    def _superseded(self) -> bool:
        try:
            return self._ledger.superseded(self._lease.job, self._lease.epoch)
        except (OSError, ServiceError) as error:
            _log.warning("%s: the fence could not be read: %s", self._lease.job, error)
            return False
