"""Batches form while the device is busy: no timer, a bounded queue, and callers may leave.

What waits when the device can take a batch is the next one, so an idle server answers at once and a
busy one fills its batches. An engine with several batches in flight begins one while another one is
computed or copied back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from saeserve.errors import DeadlinePassed, Overloaded
from saeserve.inference.metrics import InferenceMetrics
from saeserve.inference.queue import FairQueue, Slice
from saeserve.inference.rows import Rows
from saeserve.inference.work import Engine, Operation, Request, Served
from saeserve.platform.service import stopping

ModelT = TypeVar("ModelT")
# Share of the newest batch in the running estimate of rows a second.
_NEWEST = 0.2


class Batcher(Generic[ModelT]):
    """Admission, queue and the device's threads. Make and use it in a running event loop."""

    def __init__(
        self,
        engine: Engine[ModelT],
        metrics: InferenceMetrics,
        *,
        queue_rows: int,
        max_batch_rows: int,
        max_result_bytes: int,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._queue_rows = queue_rows
        self._max_result_bytes = max_result_bytes
        self._queue: FairQueue[Request[ModelT]] = FairQueue(max_batch_rows)
        self._rows_per_second = 0.0
        self._last_end = 0.0
        self._open: set[Request[ModelT]] = set()
        self._work = asyncio.Event()
        self._free = asyncio.Semaphore(engine.in_flight)
        self._batches: set[asyncio.Task[None]] = set()
        self._device = ThreadPoolExecutor(1, "device")
        self._results = ThreadPoolExecutor(1, "results")
        self._loop_task = asyncio.create_task(self._serve())

    async def submit(
        self, key: str, model: ModelT, operation: Operation, rows: Rows, deadline: float | None
    ) -> Served:
        """Compute `rows`; work of one (key, operation) shares batches.

        `deadline` is on time.monotonic's clock. Raises Overloaded when the queue is full,
        DeadlinePassed, InvalidInput for an answer too large to send, and the engine's errors.
        """
        self._admit(rows.rows)
        answer: asyncio.Future[Served] = asyncio.get_running_loop().create_future()
        request = Request(
            (key, operation),
            rows.rows,
            model=model,
            operation=operation,
            payload=rows,
            deadline=deadline,
            answer=answer,
        )
        self._queue.push(request)
        self._open.add(request)
        self._work.set()
        self._metrics.queue_rows.set(self._queue.rows)
        try:
            return await answer
        except asyncio.CancelledError:
            self._metrics.rejected.labels("cancelled").inc()
            raise
        finally:
            self._leave(request)

    async def close(self) -> None:
        """Refuse what waits, and end the device's threads after their batches."""
        tasks = {self._loop_task, *self._batches}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for request in self._open:
            request.fail(stopping())
        await asyncio.to_thread(self._device.shutdown)
        await asyncio.to_thread(self._results.shutdown)

    def _admit(self, rows: int) -> None:
        waiting = self._queue.rows
        # A request larger than the whole queue is admitted alone; else it never could be.
        if waiting == 0 or waiting + rows <= self._queue_rows:
            return
        self._metrics.rejected.labels("queue_full").inc()
        seconds = waiting / self._rows_per_second if self._rows_per_second else 0.1
        raise Overloaded(
            f"{waiting} rows wait in a queue of {self._queue_rows}, no room for {rows} more",
            retry_after_s=min(max(seconds, 0.05), 5.0),
            remedy="retry after the delay given, or send smaller requests",
        )

    def _leave(self, request: Request[ModelT]) -> None:
        self._open.discard(request)
        self._queue.remove(request)
        self._metrics.queue_rows.set(self._queue.rows)

    async def _serve(self) -> None:
        while True:
            await self._work.wait()
            await self._free.acquire()
            slices = self._queue.take(self._wanted)
            self._metrics.queue_rows.set(self._queue.rows)
            for request in {part.entry for part in slices if part.start == 0}:
                self._metrics.queue_wait.observe(time.monotonic() - request.queued)
            if slices:
                await self._begin(slices)
            else:
                self._free.release()
                self._work.clear()

    async def _begin(self, slices: Sequence[Slice[Request[ModelT]]]) -> None:
        """Run a batch, at the side where others may run next to it."""
        if self._engine.in_flight == 1:
            try:
                await self._run(slices)
            finally:
                self._free.release()
            return
        task = asyncio.create_task(self._run(slices))
        self._batches.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        self._free.release()

    def _wanted(self, request: Request[ModelT]) -> bool:
        late = request.deadline is not None and request.deadline <= time.monotonic()
        if late and not request.answer.done():
            self._metrics.rejected.labels("deadline").inc()
            request.fail(DeadlinePassed("the deadline passed while the request waited"))
        return not request.answer.done()

    async def _run(self, slices: Sequence[Slice[Request[ModelT]]]) -> None:
        started = time.monotonic()
        try:
            result = await self._computed(slices)
        except Exception as error:
            await self._after_failure(slices, error)
        else:
            self._deliver(slices, result, time.monotonic() - started)

    async def _computed(self, slices: Sequence[Slice[Request[ModelT]]]) -> Rows:
        """The rows of a batch; a thread begins it, and another one waits for it where the next
        batch can begin meanwhile."""
        loop, first = asyncio.get_running_loop(), slices[0].entry
        parts = [part.entry.payload.part(part.start, part.stop) for part in slices]

        def begin() -> Callable[[], Rows]:
            return self._engine.begin(first.model, first.operation, parts)

        if self._engine.in_flight == 1:
            result = await loop.run_in_executor(self._device, lambda: begin()())
        else:
            wait = await loop.run_in_executor(self._device, begin)
            result = await loop.run_in_executor(self._results, wait)
        rows = sum(part.rows for part in parts)
        if result.rows != rows:
            raise RuntimeError(f"{rows} rows in, {result.rows} out; this is a bug")
        return result

    async def _after_failure(
        self, slices: Sequence[Slice[Request[ModelT]]], error: Exception
    ) -> None:
        if len(slices) == 1:
            slices[0].entry.fail(error)
            return
        # One caller's rows may be to blame; the others must not fail with them.
        for part in slices:
            if not part.entry.answer.done():
                await self._run([part])

    def _deliver(
        self, slices: Sequence[Slice[Request[ModelT]]], result: Rows, seconds: float
    ) -> None:
        self._metrics.stage.labels("compute").observe(seconds)
        self._metrics.batch_rows.observe(result.rows)
        # While batches overlap, each has only the time since the end of the one before.
        now = time.monotonic()
        busy = min(seconds, now - self._last_end)
        self._last_end = now
        if busy > 0:
            newest = result.rows / busy
            share = _NEWEST if self._rows_per_second else 1.0
            self._rows_per_second += share * (newest - self._rows_per_second)
        start = 0
        for part in slices:
            stop = start + part.stop - part.start
            rows = result.part(start, stop)
            part.entry.add(rows, result.rows, seconds, self._max_result_bytes)
            start = stop
