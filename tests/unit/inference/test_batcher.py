"""Batches form while the device is busy; callers may leave, fail, and come too many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from tests.fakes.gated_engine import POISON, GatedEngine, rows_of

from saeserve.errors import DeadlinePassed, InvalidInput, Overloaded, Unavailable
from saeserve.inference.batcher import Batcher
from saeserve.inference.metrics import InferenceMetrics
from saeserve.inference.rows import DenseRows
from saeserve.inference.work import Operation, Served


@dataclass(frozen=True)
class Bench:
    batcher: Batcher[str]
    engine: GatedEngine
    registry: CollectorRegistry

    def submit(
        self,
        *values: float,
        model: str = "m",
        operation: Operation = Operation.ENCODE,
        deadline: float | None = None,
    ) -> asyncio.Task[Served]:
        work = self.batcher.submit(model, model, operation, rows_of(*values), deadline)
        return asyncio.ensure_future(work)

    async def hold(self) -> asyncio.Task[Served]:
        """Keep the device busy with one row until the gate opens."""
        self.engine.gate.clear()
        task = self.submit(-1.0)
        await asyncio.to_thread(self.engine.entered.acquire, timeout=30)
        return task

    def rejected(self, reason: str) -> float:
        found = self.registry.get_sample_value("saeserve_rejected_total", {"reason": reason})
        return found or 0.0

    @property
    def waiting(self) -> float | None:
        return self.registry.get_sample_value("saeserve_queue_rows")


@asynccontextmanager
async def bench(
    queue_rows: int = 100,
    max_batch_rows: int = 8,
    max_result_bytes: int = 2**20,
    in_flight: int = 1,
) -> AsyncGenerator[Bench]:
    engine, registry = GatedEngine(in_flight), CollectorRegistry()
    batcher = Batcher(
        engine,
        InferenceMetrics(registry),
        queue_rows=queue_rows,
        max_batch_rows=max_batch_rows,
        max_result_bytes=max_result_bytes,
    )
    try:
        yield Bench(batcher, engine, registry)
    finally:
        engine.gate.set()
        await batcher.close()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(scenario(), 60)

    asyncio.run(limited())


def first_column(served: Served) -> list[float]:
    assert isinstance(served.rows, DenseRows)
    return served.rows.x[:, 0].tolist()


async def settle() -> None:
    """Let submitted tasks reach the queue."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_an_idle_server_answers_at_once_and_a_busy_one_fills_its_batch() -> None:
    async def scenario() -> None:
        async with bench() as b:
            held = await b.hold()
            a, c = b.submit(1, 2), b.submit(3)
            await settle()
            assert b.waiting == 3
            b.engine.gate.set()
            assert first_column(await a) == [2, 4]
            assert first_column(await c) == [6]
            assert (await held).batch_rows == 1
            assert (await a).batch_rows == 3
            assert b.engine.sizes == [1, 3]
            assert b.waiting == 0

    run(scenario)


def test_an_engine_with_two_batches_in_flight_begins_one_during_another() -> None:
    async def scenario() -> None:
        async with bench(in_flight=2) as b:
            first = await b.hold()
            second = b.submit(1)
            assert await asyncio.to_thread(b.engine.entered.acquire, timeout=30)
            waiting = [b.submit(2), b.submit(POISON), b.submit(3)]
            await settle()
            assert b.waiting == 3
            b.engine.gate.set()
            assert first_column(await first) == [-2]
            assert first_column(await second) == [2]
            with pytest.raises(ValueError, match="poison"):
                await waiting[1]
            assert [first_column(await waiting[i]) for i in (0, 2)] == [[4], [6]]
            assert b.engine.sizes[:3] == [1, 1, 3]

    run(scenario)


def test_closing_ends_all_batches_in_flight() -> None:
    async def scenario() -> None:
        async with bench(in_flight=2) as b:
            held, second = await b.hold(), b.submit(1)
            assert await asyncio.to_thread(b.engine.entered.acquire, timeout=30)
            closing = asyncio.ensure_future(b.batcher.close())
            await settle()
            b.engine.gate.set()
            await closing
            for task in (held, second):
                with pytest.raises(Unavailable):
                    await task

    run(scenario)


def test_other_models_and_operations_have_batches_of_their_own() -> None:
    async def scenario() -> None:
        async with bench() as b:
            await b.hold()
            tasks = [
                b.submit(1),
                b.submit(2, model="n"),
                b.submit(3, operation=Operation.RECONSTRUCT),
                b.submit(4),
            ]
            await settle()
            b.engine.gate.set()
            answers = [first_column(await task) for task in tasks]
            assert answers == [[2], [4], [6], [8]]
            assert b.engine.batches[1:] == [
                ("m", Operation.ENCODE, [1, 4]),
                ("n", Operation.ENCODE, [2]),
                ("m", Operation.RECONSTRUCT, [3]),
            ]

    run(scenario)


def test_a_large_request_is_cut_and_put_together_again() -> None:
    async def scenario() -> None:
        async with bench(max_batch_rows=4) as b:
            await b.hold()
            large, small = b.submit(*range(10)), b.submit(99)
            await settle()
            b.engine.gate.set()
            assert first_column(await large) == [2 * value for value in range(10)]
            assert first_column(await small) == [198]
            assert b.engine.batches[2][2] == [99, 4, 5, 6]
            assert max(b.engine.sizes) == 4

    run(scenario)


def test_a_request_of_no_rows_is_answered() -> None:
    async def scenario() -> None:
        async with bench() as b:
            assert first_column(await b.submit()) == []

    run(scenario)


def test_a_full_queue_refuses_by_name_and_says_when_to_retry() -> None:
    async def scenario() -> None:
        async with bench(queue_rows=4) as b:
            await b.hold()
            waiting = b.submit(1, 2, 3)
            await settle()
            with pytest.raises(Overloaded, match="3 rows wait in a queue of 4, no room for 2"):
                await b.submit(4, 5)
            fits = b.submit(6)
            await settle()
            b.engine.gate.set()
            assert first_column(await waiting) == [2, 4, 6]
            assert first_column(await fits) == [12]
            assert b.rejected("queue_full") == 1

    run(scenario)


def test_a_request_larger_than_the_queue_is_served_when_nothing_waits() -> None:
    async def scenario() -> None:
        async with bench(queue_rows=4) as b:
            assert len(first_column(await b.submit(*range(20)))) == 20

    run(scenario)


def test_the_retry_hint_follows_the_devices_speed() -> None:
    async def scenario() -> None:
        async with bench(queue_rows=4) as b:
            await b.submit(1)
            await b.hold()
            b.submit(1, 2, 3, 4)
            await settle()
            with pytest.raises(Overloaded) as caught:
                await b.submit(5)
            assert 0.05 <= caught.value.retry_after_s <= 5

    run(scenario)


def test_a_caller_that_leaves_frees_its_place_and_hurts_nobody() -> None:
    async def scenario() -> None:
        async with bench(queue_rows=4) as b:
            await b.hold()
            leaving, staying = b.submit(1, 2), b.submit(3, 4)
            await settle()
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            late = b.submit(5, 6)
            await settle()
            b.engine.gate.set()
            assert first_column(await staying) == [6, 8]
            assert first_column(await late) == [10, 12]
            assert b.engine.batches[1][2] == [3, 4, 5, 6]
            assert b.rejected("cancelled") == 1

    run(scenario)


def test_a_caller_that_leaves_during_its_batch_hurts_nobody() -> None:
    async def scenario() -> None:
        async with bench() as b:
            await b.hold()
            leaving, staying = b.submit(1), b.submit(2)
            await settle()
            b.engine.gate.set()
            await asyncio.to_thread(b.engine.entered.acquire, timeout=30)
            leaving.cancel()
            assert first_column(await staying) == [4]
            assert first_column(await b.submit(3)) == [6]

    run(scenario)


def test_most_callers_leaving_at_random_moments_leaves_the_rest_served() -> None:
    async def scenario() -> None:
        random = np.random.default_rng(0)
        async with bench(queue_rows=10_000) as b:
            tasks = [b.submit(*[float(i)] * int(random.integers(1, 20))) for i in range(200)]
            for task in tasks:
                if random.random() < 0.8:
                    task.cancel()
                if random.random() < 0.1:
                    await asyncio.sleep(0.001)
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            for number, answer in enumerate(answers):
                if isinstance(answer, Served):
                    assert set(first_column(answer)) == {2.0 * number}
                else:
                    assert isinstance(answer, asyncio.CancelledError)
            assert first_column(await b.submit(7)) == [14]
            assert b.waiting == 0

    run(scenario)


def test_a_passed_deadline_is_dropped_before_it_is_computed() -> None:
    async def scenario() -> None:
        async with bench() as b:
            await b.hold()
            late = b.submit(1, deadline=time.monotonic() - 1)
            timely = b.submit(2, deadline=time.monotonic() + 60)
            await settle()
            b.engine.gate.set()
            with pytest.raises(DeadlinePassed):
                await late
            assert first_column(await timely) == [4]
            assert b.engine.batches[1][2] == [2]
            assert b.rejected("deadline") == 1

    run(scenario)


def test_one_callers_failure_is_its_own() -> None:
    async def scenario() -> None:
        async with bench() as b:
            await b.hold()
            tasks = [b.submit(1), b.submit(POISON), b.submit(3)]
            await settle()
            b.engine.gate.set()
            assert first_column(await tasks[0]) == [2]
            assert first_column(await tasks[2]) == [6]
            with pytest.raises(ValueError, match="poison"):
                await tasks[1]
            assert first_column(await b.submit(4)) == [8]

    run(scenario)


def test_a_large_request_that_fails_midway_is_not_computed_further() -> None:
    async def scenario() -> None:
        async with bench(max_batch_rows=2) as b:
            with pytest.raises(ValueError, match="poison"):
                await b.submit(1, POISON, 3, 4, 5, 6)
            assert first_column(await b.submit(7)) == [14]
            assert b.engine.sizes == [2, 1]

    run(scenario)


def test_an_answer_too_large_for_a_message_is_refused_early() -> None:
    async def scenario() -> None:
        async with bench(max_batch_rows=2, max_result_bytes=12) as b:
            with pytest.raises(InvalidInput, match="larger than a message") as caught:
                await b.submit(*range(10))
            assert caught.value.code == "TOO_LARGE"
            assert first_column(await b.submit(1, 2, 3)) == [2, 4, 6]
            assert b.engine.sizes == [2, 2, 2, 1]

    run(scenario)


def test_rows_lost_by_an_engine_are_never_answered_as_others() -> None:
    async def scenario() -> None:
        async with bench() as b:
            b.engine.lost_rows = 1
            with pytest.raises(RuntimeError, match="2 rows in, 1 out"):
                await b.submit(1, 2)

    run(scenario)


def test_closing_answers_everyone() -> None:
    async def scenario() -> None:
        async with bench() as b:
            held = await b.hold()
            waiting = b.submit(1)
            await settle()
            closing = asyncio.ensure_future(b.batcher.close())
            for task in (held, waiting):
                with pytest.raises(Unavailable, match="stopping"):
                    await task
            b.engine.gate.set()
            await closing

    run(scenario)
