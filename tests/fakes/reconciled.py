"""A reconciler between a ledger and an index in memory, with a clock of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.fakes.jobs import (
    TTL,
    Clock,
    CountingDoorbell,
    lease_of,
    look,
    submission,
)
from tests.fakes.memory_index import MemoryIndex

from saeserve.jobs.ledger import Ledger
from saeserve.jobs.reconciler import Pace, Reconciler, TickReport
from saeserve.jobs.record import Failure, JobRecord, Lease, Result, Submission
from saeserve.jobs.states import JobState

SCAN = 20.0
STRIDE = 5.0
COUNTED = ("indexed", "expired", "applied", "cancelled", "failed", "rung")


@dataclass
class World:
    """Store, index, doorbell and reconciler around one clock."""

    ledger: Ledger
    clock: Clock = field(default_factory=Clock)
    server: Clock = field(default_factory=Clock)
    """The broker's wall clock."""
    doorbell: CountingDoorbell = field(default_factory=CountingDoorbell)
    published: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.index = MemoryIndex(self.server)
        self.reconciler = self.another("R1")
        self.index.set_generation("g0")
        # Patience after the first contact.
        self.wait(2 * TTL)

    def another(self, owner: str, prove: Callable[[], None] = lambda: None) -> Reconciler:
        return Reconciler(
            self.ledger,
            self.index,
            self.doorbell,
            publish=self.published.append,
            prove=prove,
            owner=owner,
            pace=Pace(lease_ttl_s=TTL, scan_every_s=SCAN, lead_ttl_s=10.0),
            monotonic=self.clock,
            now=self.clock,
        )

    def tick(self, seconds: float = 1.0) -> TickReport:
        self.clock.advance(seconds)
        return self.reconciler.tick()

    def wait(self, seconds: float) -> Counter[str]:
        """Let time pass with a tick every few seconds; what they did in sum."""
        done: Counter[str] = Counter()
        for _ in range(round(seconds / STRIDE)):
            report = self.tick(STRIDE)
            done.update({name: getattr(report, name) for name in COUNTED})
        return done

    def scan(self) -> Counter[str]:
        """Until the store has been looked through; too short for a lease to run out."""
        return self.wait(SCAN)

    def lose_worker(self) -> Counter[str]:
        """Until the lease of a worker that went silent has run out."""
        return self.wait(TTL + STRIDE)

    def submit(self, job: str, *waits_for: str, max_attempts: int = 3) -> Submission:
        submitted = self.ledger.submit(
            submission(job, waits_for=waits_for, max_attempts=max_attempts)
        )
        state = JobState.BLOCKED if waits_for else JobState.QUEUED
        self.index.put(JobRecord(submission=submitted, state=state))
        return submitted

    def begin(self, owner: str = "A") -> Lease:
        taken = self.index.acquire("cpu", owner, TTL)
        assert taken is not None
        claim = self.ledger.claim(taken.id, owner, self.clock())
        lease = lease_of(taken, claim.epoch)
        assert self.index.start(lease, claim.charged)
        return lease

    def commit(self, job: str, state: JobState, failure: Failure | None = None) -> None:
        self.ledger.finish(
            Result(job=job, epoch=1, state=state, failure=failure, time=self.clock())
        )

    def state(self, job: str = "j-1") -> JobState:
        return look(self.index, job).state

    def both(self, job: str = "j-1") -> tuple[JobState, JobState]:
        """What index and store say."""
        return self.state(job), self.ledger.record(job).state


def twice(state: JobState) -> tuple[JobState, JobState]:
    return state, state


# Ringing
