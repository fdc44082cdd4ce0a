"""Renews an attempt's lease while its job process runs, and receives cancel requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Self

from saeserve.errors import ServiceError
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.ports import IndexUnavailable, JobIndex
from saeserve.jobs.record import Beat, Claim, Lease
from saeserve.worker.event_relay import EventRelay

_log = logging.getLogger("saeserve.worker.lease")
_PROMPT_S = 1.0
"""Beats come at least this often, so that cancels and events do not wait for a long lease."""


@contextmanager
def held(index: JobIndex, lease: Lease, ttl_s: float) -> Generator[None]:
    """Keeps a lease from `acquire` while its attempt is claimed: hashing checkpoints takes time."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(ttl_s / 6):
            try:
                index.beat(lease, ttl_s, None)
            except IndexUnavailable as error:
                _log.debug("%s: %s", lease.job, error)

    thread = threading.Thread(target=beat, name="lease-holder", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class LeaseKeeper:
    """Two threads next to the supervisor's: one beats, one passes events on.

    Beats wait for the index alone: a slow store or a long queue of events delays no beat. Without
    the index the attempt goes on by the store
    (docs/DESIGN.md, "Jobs"). `lost` and `cancelled` are set
    once and never cleared.
    """

    def __init__(
        self, claim: Claim, ledger: Ledger, index: JobIndex, relay: EventRelay, ttl_s: float
    ) -> None:
        self._claim, self._ledger, self._index, self._relay = claim, ledger, index, relay
        self._lease = Lease(job=claim.job, epoch=claim.epoch, owner=claim.owner)
        self._ttl_s = ttl_s
        self._started = False
        self._alone = False
        self._forgotten = False
        self._every_s = min(_PROMPT_S, ttl_s / 6)
        self._beats = _Repeated("lease-keeper", self._beat, self._again)
        self._events = _Repeated("event-relay", relay.forward, self._again)
        relay.hold()
        self.lost = threading.Event()
        self.cancelled = threading.Event()

    def __enter__(self) -> Self:
        self._beat()
        self._beats.start()
        self._events.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()
        self._relay.forward()
        self._beats.close()
        with suppress(IndexUnavailable):  # the last progress; the store has what matters
            self._index.beat(self._lease, self._ttl_s, self._relay.progress)

    def tick(self) -> None:
        """Beat once, act on the answer, and pass events on."""
        self._beat()
        self._relay.forward()

    def _beat(self) -> None:
        answer = self._ask()
        if answer is Beat.FENCED:
            self.lost.set()
        elif answer is Beat.CANCEL:
            self.cancelled.set()

    def _again(self, closed: threading.Event) -> bool:
        """Wait for the next turn; False when there is none."""
        return not self.lost.is_set() and not closed.wait(self._every_s)

    def _ask(self) -> Beat:
        try:
            self._start()
            answer = self._index.beat(self._lease, self._ttl_s, self._relay.progress)
        except IndexUnavailable as error:
            self._note_alone(str(error))
            return self._by_store()
        if answer is Beat.UNKNOWN:
            self._note_alone("it has lost this job")
            self._forgotten = True
            return self._by_store()
        self._note_back()
        return answer

    def _start(self) -> None:
        """Watchers see the events of earlier attempts, then RUNNING, then those of this one."""
        if not self._started and self._relay.earlier_handed:
            self._started = self._index.start(self._lease, self._claim.charged)
            if self._started:
                self._relay.begin()

    def _by_store(self) -> Beat:
        try:
            if self._ledger.superseded(self._claim.job, self._claim.epoch):
                return Beat.FENCED
            wished = self._ledger.cancel_requested(self._claim.job)
        except (OSError, ServiceError):
            _log.exception("%s: index and store are out of reach; stopping", self._claim.job)
            return Beat.FENCED
        return Beat.CANCEL if wished else Beat.OK

    def _note_back(self) -> None:
        if self._forgotten:
            self._relay.rewind()
        if self._alone:
            _log.info("%s: the index answers again", self._claim.job)
        self._alone = self._forgotten = False

    def _note_alone(self, why: str) -> None:
        if not self._alone:
            _log.warning("%s: going on by the store: index: %s", self._claim.job, why)
        self._alone = True


class _Repeated:
    """A thread that does something again and again until closed."""

    def __init__(
        self, name: str, action: Callable[[], None], again: Callable[[threading.Event], bool]
    ) -> None:
        self._name, self._action, self._again = name, action, again
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End after the turn that runs."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while self._again(self._closed):
            try:
                self._action()
            except Exception:
                # The lease runs out if this lasts, and the next attempt fences this one.
                _log.exception("%s failed; it is tried again", self._name)
