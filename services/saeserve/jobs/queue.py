"""The queue of a resource class as it stands: live workers, and the order of its jobs."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable

from saeserve.jobs.record import JobRecord, Value

LOOKED_AT = 500
"""Queued jobs of a submitter whose place is worked out; those behind have none."""


class Queued(Value):
    """A queued job, and what its turn depends on."""

    job: str
    rank: int
    """Lower runs first: minus the priority."""
    submitter: int
    """A number that stands for the submitter."""
    running: int
    """Jobs of the class that the submitter has running."""


class ClassQueue(Value):
    """The queue of one resource class."""

    workers: int
    """Live workers that take jobs of the class."""
    queued: int
    order: tuple[str, ...] = ()
    """Ids in the order in which `JobIndex.acquire` gives them, as long as no running job ends and
    none is added; without those beyond `LOOKED_AT` of a submitter."""


class Waiting(Value):
    """Why a job that waits does not run yet."""

    reason: str
    """A sentence without its full stop."""
    workers: int = 0
    """Live workers of its class."""
    place: int = 0
    """In the queue of its class, from 1; 0 where that is not known."""
    queued: int = 0
    """Jobs in that queue."""
    returned: str = ""
    """Why it went back into the queue, e.g. STALLED or DRAINED; empty before its first attempt."""


def in_turn(queued: Iterable[Queued]) -> tuple[str, ...]:
    """Ids in the order of their turns: by rank, then the submitter with the fewest running jobs,
    then age."""
    lists: dict[int, list[Queued]] = defaultdict(list)
    for each in queued:
        lists[each.submitter].append(each)
    turns: list[tuple[int, int, str, int]] = []
    for number, mine in lists.items():
        mine.sort(key=lambda each: (each.rank, each.job), reverse=True)
        turns.append((mine[-1].rank, mine[-1].running, mine[-1].job, number))
    heapq.heapify(turns)
    order: list[str] = []
    while turns:
        _, running, job, number = heapq.heappop(turns)
        order.append(job)
        mine = lists[number]
        mine.pop()
        if mine:
            heapq.heappush(turns, (mine[-1].rank, running + 1, mine[-1].job, number))
    return tuple(order)


def waiting_of(record: JobRecord, queue: ClassQueue) -> Waiting:
    """Why the QUEUED `record` does not run, by the queue of its class."""
    name = record.submission.resource_class
    place = queue.order.index(record.id) + 1 if record.id in queue.order else 0
    where = f"place {place} of {queue.queued}" if place else f"one of {queue.queued} jobs"
    if queue.workers:
        workers = "1 live worker" if queue.workers == 1 else f"{queue.workers} live workers"
        reason = f"{where} in the queue of class {name}, which has {workers}"
    else:
        reason = f"no live worker of class {name}; {where} in its queue"
    returned = record.reason if record.epoch else ""
    return Waiting(
        reason=f"{reason}; queued again after {returned}" if returned else reason,
        workers=queue.workers,
        place=place,
        queued=queue.queued,
        returned=returned,
    )


def blocked(record: JobRecord) -> Waiting:
    """Why the BLOCKED `record` does not run."""
    return Waiting(reason=f"waits for {', '.join(record.submission.waits_for)} to succeed")
