"""The events of jobs in Redis: numbered streams, and the generation of their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import redis

from saeserve.jobs.errors import EventsMissing
from saeserve.jobs.record import Event, NumberedEvent
from saeserve.jobs.redis_fields import event_json, numbered
from saeserve.jobs.redis_scripts import PREFIX, Reach, Scripts, table, text

_BEHIND = "behind"
_AT_ONCE = 1000


class RedisStreams:
    """The part of `RedisIndex` that keeps events."""

    def __init__(self, client: redis.Redis, reach: Reach) -> None:
        self._client = client
        self._reach = reach
        self._scripts = Scripts(client, reach)

    def append(self, job: str, event: Event, after: int = -1) -> bool:
        """Number an event into the job's stream; see `JobIndex.append`."""
        answer = self._scripts.word("append", job, event.epoch, event.op, event_json(event), after)
        if answer == _BEHIND:
            raise EventsMissing(job, event.epoch, after)
        return answer == "1"

    def told(self, job: str) -> dict[int, int]:
        """Highest op of each attempt whose events are here."""
        marks = table(self._scripts.words("told", job))
        return {int(epoch): int(op) for epoch, op in marks.items()}

    def events(self, job: str, after: int, limit: int) -> list[NumberedEvent]:
        """Events with a sequence above `after`, oldest first."""
        with self._reach():
            entries = self._client.xrange(
                f"{PREFIX}events:{job}", min=f"{after + 1}-0", count=limit
            )
        return [numbered(entry) for entry in cast("list[Any]", entries)]

    def last_sequence(self, job: str) -> int:
        """The highest sequence that was given; see `JobIndex.last_sequence`."""
        with self._reach():
            given = self._client.hget(f"{PREFIX}job:{job}", "seq")
        return 0 if given is None else int(text(cast("Any", given)))

    def expire_events(self, jobs: Sequence[str]) -> int:
        """Let events of ended jobs expire; see `JobIndex.expire_events`."""
        starts = range(0, len(jobs), _AT_ONCE)
        return sum(self._scripts.number("tidy", *jobs[at : at + _AT_ONCE]) for at in starts)

    def store(self) -> str | None:
        """Id of the artifact store that the jobs here belong to."""
        with self._reach():
            found = self._client.get(f"{PREFIX}store")
        return None if found is None else text(found)

    def set_store(self, id: str) -> None:
        """Bind the jobs to an artifact store; see `JobIndex.set_store`."""
        with self._reach():
            self._client.set(f"{PREFIX}store", id)

    def generation(self) -> str | None:
        """The mark that dies with the data; another one after a restart, see `JobIndex`."""
        with self._reach():
            values = cast("list[Any]", self._client.mget(f"{PREFIX}generation", f"{PREFIX}server"))
            now = self._run_id()
        mark, server = ("" if value is None else text(value) for value in values)
        if not mark:
            return None
        return mark if server == now else f"{mark}.{now}"

    def set_generation(self, mark: str) -> None:
        """Set the mark, after a rebuild."""
        with self._reach():
            values = {f"{PREFIX}generation": mark, f"{PREFIX}server": self._run_id()}
            self._client.mset(cast("Any", values))

    def _run_id(self) -> str:
        """Random id of the server process: another one may have lost what was written last."""
        # redis-py leaves its keyword arguments untyped.
        info = cast("Callable[[str], dict[str, Any]]", self._client.info)("server")
        return str(info["run_id"])
