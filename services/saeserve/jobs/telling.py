"""Telling the index how a job ended: its events first, since nobody listens after the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from saeserve.jobs.ledger import Ledger
from saeserve.jobs.ports import JobIndex
from saeserve.jobs.progress import final_progress
from saeserve.jobs.record import Event, Result


def tell_end(ledger: Ledger, index: JobIndex, result: Result) -> bool:
    """Make the job terminal in the index as its committed `result` says; False when it was.

    A watch ends with the job's last state, so all events of the ledger are appended before it. A
    job process whose worker is cut off may go on after the result; it writes no more events.
    Raises IndexUnavailable, RecordUnreadable.
    """
    events = ledger.complete_history(result.job)
    add_missing(index, result.job, events)
    progress = final_progress(result, reversed(events))
    made, why = result.outputs, result.failure
    return index.finish(result.job, result.epoch, result.state, made, why, progress)


def add_missing(index: JobIndex, job: str, events: Iterable[Event]) -> None:
    """Append those of a job's `events`, in their order, that the index has not."""
    for event in missing(index, job, events):
        index.append(job, event)


def missing(index: JobIndex, job: str, events: Iterable[Event]) -> Iterator[Event]:
    """Leave out those of a job's `events` that the index has; what workers wrote stays, since it
    tells nothing of that: appending is idempotent."""
    told = index.told(job)
    return (event for event in events if event.by_worker or event.op > told.get(event.epoch, -1))
