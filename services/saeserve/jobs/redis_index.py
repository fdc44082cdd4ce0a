"""The index of jobs in Redis or Valkey: derived data, moved by one atomic script a move.

Leases end by the clock of whoever watches them (`leases.py`). Every script may be sent twice
(redis-py repeats a command whose answer timed out), so a repeat changes nothing further.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import redis

from saeserve.core.planning.machine import Machine
from saeserve.jobs.large_specs import INDEXED_CHARACTERS, indexed
from saeserve.jobs.leases import HeldLease, Leadership
from saeserve.jobs.queue import LOOKED_AT, ClassQueue
from saeserve.jobs.record import (
    Beat,
    Event,
    Failure,
    JobFilter,
    JobRecord,
    Lease,
    Output,
    Progress,
)
from saeserve.jobs.redis_fields import (
    event_json,
    failure_json,
    from_fields,
    leases_of,
    machines_of,
    outputs_json,
    queue_of,
    to_fields,
)
from saeserve.jobs.redis_scripts import PREFIX, Reach, table, text
from saeserve.jobs.redis_streams import RedisStreams
from saeserve.jobs.states import JobState

KEPT_EVENTS_S = 7 * 24 * 3600.0
_BATCH = 1000


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _progress(progress: Progress | None) -> tuple[str, int]:
    """Convert for the scripts: JSON, empty for None, and the step."""
    return (progress.model_dump_json(), progress.step) if progress else ("", 0)


class RedisIndex(RedisStreams):
    """Implements `ports.JobIndex`. Safe to share between threads, as the client is."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        stream_length: int = 10_000,
        events_s: float = KEPT_EVENTS_S,
        reach: Reach | None = None,
    ) -> None:
        """`stream_length`: events kept for each job, roughly; `events_s`: how long they are kept
        once it has ended. The store keeps all. `reach`: what follows a command that got no answer;
        by default nothing, each command is sent and waits for itself."""
        super().__init__(client, reach or Reach())
        self._stream_length = stream_length
        self._kept_ms = max(1, _ms(events_s))

    def put(
        self,
        record: JobRecord,
        history: Sequence[Event] = (),
        lease_ttl_s: float = 60.0,
        left_out: int = 0,
    ) -> bool:
        """Add a job; see `JobIndex.put`."""
        kept = history[-self._stream_length :]
        left_out += len(history) - len(kept)
        fields = to_fields(indexed(record), self._stream_length)
        fields |= {"seq": left_out, "keep": self._kept_ms}
        pairs = [part for pair in fields.items() for part in pair]
        events = [part for event in kept for part in (event.epoch, event.op, event_json(event))]
        return self._scripts.flag("put", record.id, _ms(lease_ttl_s), len(fields), *pairs, *events)

    def get(self, job: str) -> JobRecord | None:
        """The job, or None."""
        return next(self._read([job]), None)

    def ids(self) -> list[str]:
        """Ids of all jobs, newest first."""
        with self._reach():
            found = self._client.zrevrangebylex(f"{PREFIX}ids", "+", "-")
        return [text(job) for job in found]

    def page(self, wanted: JobFilter, size: int, after: str) -> tuple[list[JobRecord], str]:
        """Jobs that match, newest first; the token is the last id of the page."""
        matching = (
            record for record in self._records(wanted, after, size + 1) if wanted.matches(record)
        )
        found = list(islice(matching, size + 1))
        more = len(found) > size
        return found[:size], found[size - 1].id if more else ""

    def acquire(self, resource_class: str, owner: str, ttl_s: float) -> JobRecord | None:
        """Lease the next runnable job of a class; see `JobIndex.acquire`."""
        return self._one("acquire", resource_class, owner, _ms(ttl_s))

    def start(self, lease: Lease, charged: bool) -> bool:
        """Record the claimed epoch; False when fenced."""
        return self._scripts.flag("start", lease.job, lease.owner, lease.epoch, int(charged))

    def beat(self, lease: Lease, ttl_s: float, progress: Progress | None) -> Beat:
        """Renew the lease and record progress; says if it is fenced or a cancel is requested."""
        told = _progress(progress)
        answer = self._scripts.word("beat", lease.job, lease.owner, lease.epoch, _ms(ttl_s), *told)
        return Beat(answer)

    def remove(self, job: str) -> bool:
        """Forget a job that has ended; see `JobIndex.remove`."""
        return self._scripts.flag("remove", job)

    def release(self, lease: Lease, reason: str) -> bool:
        """Give a leased job back; False when fenced."""
        return self._scripts.flag("release", lease.job, lease.owner, lease.epoch, reason)

    def finish(
        self,
        job: str,
        epoch: int,
        state: JobState,
        outputs: Sequence[Output],
        failure: Failure | None,
        progress: Progress | None = None,
    ) -> bool:
        """Make a job terminal as its committed result says; see `JobIndex.finish`."""
        made, why = outputs_json(tuple(outputs)), failure_json(failure)
        reason = failure.code if failure else ""
        told = _progress(progress)
        return self._scripts.flag("finish", job, epoch, state.value, made, why, reason, *told)

    def request_cancel(self, job: str) -> JobRecord | None:
        """A live job becomes CANCELLING; see `JobIndex.request_cancel`."""
        return self._one("request_cancel", job, "cancelled on request")

    def unsettled(self) -> list[str]:
        """CANCELLING jobs that nobody runs."""
        return self._members("unsettled")

    def counts(self) -> dict[JobState, int]:
        """Jobs in each state that has any."""
        with self._reach():
            sizes = {
                state: self._client.scard(f"{PREFIX}state:{state.value}") for state in JobState
            }
        return {state: size for state, size in sizes.items() if size}

    def tally(self, states: Iterable[JobState]) -> dict[tuple[JobState, str], int]:
        """Jobs in each of `states` by resource class; a batch at a time, for others wait."""
        counts: Counter[tuple[JobState, str]] = Counter()
        for state in states:
            jobs = self._members(f"state:{state.value}")
            for at in range(0, len(jobs), _BATCH):
                found = table(self._scripts.words("tally", *jobs[at : at + _BATCH]))
                for name, count in found.items():
                    counts[state, name] += int(count)
        return dict(counts)

    def unblock(self, job: str) -> bool:
        """BLOCKED becomes QUEUED; False when it was not BLOCKED."""
        return self._scripts.flag("unblock", job)

    def leases(self) -> list[HeldLease]:
        """Read without ending any; see `JobIndex.leases`."""
        return list(leases_of(self._scripts.words("leases")))

    def expire(self, silent: Sequence[HeldLease]) -> list[JobRecord]:
        """Take back the leases that stand as they were seen; see `JobIndex.expire`."""
        if not silent:
            return []
        pairs = [part for lease in silent for part in (lease.job, lease.mark)]
        return list(self._read(self._scripts.words("expire", "lease expired", *pairs)))

    def runnable(self) -> dict[str, int]:
        """QUEUED jobs of each resource class that has any."""
        counts = table(self._scripts.words("runnable"))
        return {name: int(count) for name, count in counts.items() if count != "0"}

    def queue(self, resource_class: str) -> ClassQueue:
        """The queue of a class; see `JobIndex.queue`."""
        return queue_of(self._scripts.words("queue", resource_class, LOOKED_AT))

    def lead(self, name: str, owner: str, silent: Leadership | None = None) -> Leadership:
        """Take or keep the leadership; see `JobIndex.lead`."""
        past = (silent.holder, silent.mark) if silent else ("", "")
        holder, mark = self._scripts.words("lead", name, owner, *past)
        return Leadership(holder=holder, mark=mark)

    def announce(self, resource_class: str, worker: str, machine: Machine, ttl_s: float) -> None:
        """Tell of a worker's machine; see `JobIndex.announce`."""
        told = machine.model_dump_json()
        self._scripts.flag("announce", resource_class, worker, told, _ms(ttl_s))

    def machines(self, resource_class: str) -> list[Machine]:
        """Machines of the class whose workers were heard of lately."""
        return list(machines_of(self._scripts.words("machines", resource_class)))

    def _one(self, script: str, *arguments: str | int) -> JobRecord | None:
        flat = self._scripts.words(script, *arguments)
        return self._record(flat) if flat else None

    def _members(self, name: str) -> list[str]:
        with self._reach():
            found = self._client.smembers(f"{PREFIX}{name}")
        return sorted(text(job) for job in found)

    def _records(self, wanted: JobFilter, after: str, step: int) -> Iterator[JobRecord]:
        """Candidates older than `after`, newest first, read `step` at a time."""
        if wanted.states:
            members = [self._members(f"state:{state.value}") for state in wanted.states]
            ids = sorted((job for some in members for job in some), reverse=True)
        else:
            ids = self.ids()
        older = [job for job in ids if not after or job < after]
        for at in range(0, len(older), step):
            yield from self._read(older[at : at + step])

    def _read(self, jobs: Sequence[str]) -> Iterator[JobRecord]:
        found = self._scripts.lists("read", *jobs)
        return (self._record(flat) for flat in found if flat)

    def _record(self, flat: list[str]) -> JobRecord:
        fields = table(flat)
        record = from_fields(fields)
        if len(fields["submission"]) <= 4 * INDEXED_CHARACTERS:
            return record
        # An older release put it here whole, so that every reading takes seconds.
        record = indexed(record)
        self._scripts.flag("shrink", record.id, record.submission.model_dump_json())
        return record
