"""Why jobs that wait do not run yet."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from saeserve.jobs.ports import IndexUnavailable, JobIndex
from saeserve.jobs.queue import ClassQueue, Waiting, blocked, waiting_of
from saeserve.jobs.record import JobRecord
from saeserve.jobs.states import JobState

log = logging.getLogger(__name__)
_UNREACHED = Waiting(
    reason="the broker is out of reach, and no worker gets a job before it is back"
)


class WaitingRoom:
    """Looks at the queues of the jobs asked about."""

    def __init__(self, index: JobIndex) -> None:
        self._index = index

    def of(self, record: JobRecord) -> Waiting | None:
        """Why the job does not run; None for one that does, or has ended."""
        return self.each([record]).get(record.id)

    def each(self, records: Iterable[JobRecord]) -> dict[str, Waiting]:
        """The same of several, by id, each class looked at once."""
        queues: dict[str, ClassQueue | None] = {}
        found: dict[str, Waiting] = {}
        for record in records:
            if record.state is JobState.BLOCKED:
                found[record.id] = blocked(record)
            if record.state is not JobState.QUEUED:
                continue
            name = record.submission.resource_class
            if name not in queues:
                queues[name] = self._queue(name)
            queue = queues[name]
            found[record.id] = _UNREACHED if queue is None else waiting_of(record, queue)
        return found

    def _queue(self, resource_class: str) -> ClassQueue | None:
        try:
            return self._index.queue(resource_class)
        except IndexUnavailable as error:
            log.warning("the queue of class %s is not known: %s", resource_class, error)
            return None
