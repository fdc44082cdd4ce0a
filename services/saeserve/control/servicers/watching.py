"""What WatchJob sends: the job, its events, and the job again when it waits otherwise or ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from saeserve.control.converters.events import event_message, gap_message
from saeserve.control.converters.jobs import job_message
from saeserve.control.converters.tokens import Cursor, resume_cursor
from saeserve.control.handlers.ownership import seen_by
from saeserve.control.handlers.waiting import WaitingRoom
from saeserve.control.handlers.watch import News, Watcher
from saeserve.control.servicers.pools import Pools
from saeserve.jobs.queue import Waiting
from saeserve.jobs.record import JobRecord
from saeserve.platform.auth.caller import current_caller
from saeserve.platform.service import stopping
from saeserve.v1 import job_service_pb2 as pb

_QUEUES_EVERY_S = 1.0


@dataclass(frozen=True)
class Watching:
    """Watches, which look for news each `watch_seconds` until `stopping` is set."""

    watcher: Watcher
    waiting: WaitingRoom
    pools: Pools
    stopping: asyncio.Event
    watch_seconds: float

    async def updates(self, request: pb.WatchJobRequest) -> AsyncIterator[pb.WatchJobResponse]:
        """All of one watch. Raises NotFound for a job of another owner, Unavailable
        when the server stops."""
        job = request.id
        record = seen_by(current_caller(), await self.pools.watch(self.watcher.job, job))
        cursor = resume_cursor(request.resume_token, job)
        waits = await self.pools.watch(self.waiting.of, record)
        looked = time.monotonic()
        yield _job(record, waits)
        while True:
            news = await self.pools.watch(self.watcher.look, job, cursor)
            for update in _updates(job, cursor, news):
                yield update
            if news.ended is not None:
                return
            cursor = news.cursor
            if news.events:
                continue
            if request.until_now:
                return
            if time.monotonic() - looked > _QUEUES_EVERY_S:
                before, waits = waits, await self.pools.watch(self.waiting.of, news.record)
                looked = time.monotonic()
                if waits is not None and waits != before:
                    yield _job(news.record, waits)
            await self._pause()

    async def _pause(self) -> None:
        """Wait for the next look. Raises Unavailable when the server stops."""
        try:
            await asyncio.wait_for(self.stopping.wait(), self.watch_seconds)
        except TimeoutError:
            return
        raise stopping("watch again with the token of the last event")


def _job(record: JobRecord, waits: Waiting | None = None) -> pb.WatchJobResponse:
    return pb.WatchJobResponse(job=job_message(record, waits))


def _updates(job: str, cursor: Cursor, news: News) -> Iterator[pb.WatchJobResponse]:
    if news.lost is not None:
        yield pb.WatchJobResponse(event=gap_message(job, cursor, news.lost))
    for seen in news.events:
        event = event_message(job, seen.cursor, seen.event)
        if event is not None:
            yield pb.WatchJobResponse(event=event)
    if news.ended is not None:
        yield _job(news.ended)
