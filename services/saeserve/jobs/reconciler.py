"""The reconciler: brings the index to what the store says, and rings while jobs wait.

The only part that must run for no job to be lost: messages, workers and the whole index may be.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from saeserve.errors import NotFound, SaeserveError
from saeserve.jobs.decisions import JOB_LOST, Decision, Decisions
from saeserve.jobs.errors import IndexUnavailable, RecordUnreadable
from saeserve.jobs.ids import new_owner
from saeserve.jobs.leases import HeldLease, SilenceWatch
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.ports import Doorbell, JobIndex
from saeserve.jobs.record import JobFilter, JobRecord
from saeserve.jobs.states import TERMINAL, JobState

_log = logging.getLogger("saeserve.jobs.reconciler")

LEADERSHIP = "reconciler"
_PAGE = 200
_LIVE = frozenset(JobState) - TERMINAL


@dataclass(frozen=True)
class TickReport:
    """What one tick did; all zero when another reconciler leads."""

    leading: bool = False
    rebuilt: bool = False
    indexed: int = 0
    """Jobs that the store held and the index did not."""
    expired: int = 0
    applied: int = 0
    cancelled: int = 0
    promoted: int = 0
    failed: int = 0
    rung: int = 0
    unreadable: int = 0
    jobs: dict[JobState, int] = field(default_factory=dict[JobState, int])


@dataclass(frozen=True)
class Pace:
    """How patient a reconciler is, in seconds; `burst` bounds the rings of a class in one tick."""

    lease_ttl_s: float = 8.0
    """Equal to the workers' own: the time that an owner may need to report again."""
    tick_every_s: float = 0.5
    """What the caller of `tick` intends."""
    scan_every_s: float = 30.0
    lead_ttl_s: float = 5.0
    """A leader that is silent for this long is replaced."""
    burst: int = 8

    @property
    def gap_s(self) -> float:
        """Ticks further apart than this tell nothing of who was silent between them."""
        return max(self.lease_ttl_s / 2, 4 * self.tick_every_s)


class Reconciler:
    """Call `tick` every second or so. Any number may run: one leads, and doubles do no harm."""

    def __init__(
        self,
        ledger: Ledger,
        index: JobIndex,
        doorbell: Doorbell,
        *,
        publish: Callable[[str], None],
        prove: Callable[[], None] = lambda: None,
        owner: str = "",
        pace: Pace | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._index = index
        self._doorbell = doorbell
        self._decisions = Decisions(ledger, index, now, publish)
        self._prove = prove
        self._healed = False
        self._owner = owner or new_owner()
        self._pace = pace or Pace()
        self._monotonic = monotonic
        self._leases = SilenceWatch(self._pace.gap_s)
        self._leaders = SilenceWatch(self._pace.gap_s)
        self._next_scan = -math.inf

    def tick(self) -> TickReport:
        """One round. Raises Unavailable when the store is not there (`prove` says so), and
        IndexUnavailable when the index is away; then nothing was concluded: just tick again."""
        leading = self._lead()
        # Watched by followers too, so that a new leader need not begin to count.
        silent = self._silent_leases()
        if not leading:
            return TickReport()
        self._prove()
        done: Counter[str] = Counter()
        rebuilt = self._index.generation() is None
        if rebuilt or self._monotonic() >= self._next_scan:
            self._scan(done, rebuilt=rebuilt)
        self._expire(silent, done)
        self._advance(done)
        self._ring(done)
        return TickReport(leading=True, rebuilt=rebuilt, jobs=self._index.counts(), **done)

    def _lead(self) -> bool:
        """Whether this reconciler leads; a leader that fell silent is replaced."""
        found = self._index.lead(LEADERSHIP, self._owner)
        mark = f"{found.holder} {found.mark}"
        silence = self._leaders.look({LEADERSHIP: mark}, self._monotonic())[LEADERSHIP]
        if silence >= self._pace.lead_ttl_s:
            found = self._index.lead(LEADERSHIP, self._owner, found)
        return found.holder == self._owner

    def _silent_leases(self) -> list[HeldLease]:
        """Leases that were not renewed for as long as they last."""
        held = self._index.leases()
        silence = self._leases.look({each.job: each.mark for each in held}, self._monotonic())
        usual = self._pace.lease_ttl_s
        return [
            each
            for each in held
            if silence[each.job] >= (usual if each.ttl_s is None else each.ttl_s)
        ]

    def _expire(self, silent: list[HeldLease], done: Counter[str]) -> None:
        lost = self._index.expire(silent)
        done["expired"] += len(lost)
        self._decide(lost, done)

    def _scan(self, done: Counter[str], *, rebuilt: bool) -> None:
        """Compare all unfinished jobs with the store; slow, so only now and then."""
        ids = self._index.ids()
        if math.isinf(self._next_scan):
            self._index.expire_events(ids)
        known = set(ids)
        for job in self._ledger.jobs():
            if job not in known:
                self._put(job, done)
        if rebuilt:
            _log.warning("the index was empty; it was rebuilt with %d jobs", done["indexed"])
            self._index.set_generation(new_owner())
            self._leases.forget()
        self._heal(done)
        self._decide(self._jobs(_LIVE), done)
        self._next_scan = self._monotonic() + self._pace.scan_every_s

    def _heal(self, done: Counter[str]) -> None:
        """Take back what earlier releases concluded from a store that was not there."""
        if self._healed:
            return
        for record in list(self._jobs(frozenset({JobState.FAILED}))):
            lost = record.failure is not None and record.failure.code == JOB_LOST
            if lost and self._ledger.exists(record.id) and not self._is_lost(record.id):
                _log.warning("%s was given up as lost, but the store holds it", record.id)
                self._index.remove(record.id)
                self._put(record.id, done)
        self._healed = True

    def _is_lost(self, job: str) -> bool:
        result = self._ledger.result(job)
        failure = result.failure if result is not None else None
        return failure is not None and failure.code == JOB_LOST

    def _put(self, job: str, done: Counter[str]) -> None:
        """Index a job from the store; whoever runs it now keeps it by a fresh lease."""
        try:
            record = self._ledger.record(job)
            ended = record.state in TERMINAL
            history = () if ended else self._ledger.history(job)
            left_out = self._ledger.event_count(job) if ended else 0
        except RecordUnreadable as error:
            _log.error("%s is left out: %s", job, error.text())
            done["unreadable"] += 1
            return
        except NotFound:  # it was deleted since the store was listed
            return
        ttl_s = self._pace.lease_ttl_s
        done["indexed"] += self._index.put(record, history, ttl_s, left_out)

    def _advance(self, done: Counter[str]) -> None:
        """What must not wait for a scan."""
        self._decide(self._jobs(frozenset({JobState.BLOCKED})), done)
        for job in self._index.unsettled():
            _count(done, self._decisions.settle(job))

    def _decide(self, records: Iterable[JobRecord], done: Counter[str]) -> None:
        for record in records:
            try:
                _count(done, self._decisions.decide(record))
            except IndexUnavailable:
                raise
            except (OSError, SaeserveError) as error:
                _log.error("%s stays as it is: %s", record.id, error)
                done["unreadable"] += 1

    def _jobs(self, states: frozenset[JobState]) -> Iterator[JobRecord]:
        after = ""
        while True:
            records, after = self._index.page(JobFilter(states=states), _PAGE, after)
            yield from records
            if not after:
                return

    def _ring(self, done: Counter[str]) -> None:
        for resource_class, waiting in self._index.runnable().items():
            if self._doorbell.waiting(resource_class) == 0:
                for _ in range(min(waiting, self._pace.burst)):
                    self._doorbell.ring(resource_class)
                    done["rung"] += 1


def _count(done: Counter[str], decision: Decision) -> None:
    if decision is not Decision.NOTHING:
        done[decision.value] += 1
