"""Watches that hang hold up neither calls that need the index nor those that do not."""

from __future__ import annotations

import asyncio
import threading

from saeserve.control.servicers.pools import Pools


def test_hanging_watches_leave_room_for_calls_and_for_the_store() -> None:
    go_on = threading.Event()

    async def scenario() -> list[int]:
        pools = Pools()
        hanging = [asyncio.ensure_future(pools.watch(go_on.wait, 60)) for _ in range(200)]
        await asyncio.sleep(0)
        try:
            answers = [await pools.call(abs, -1), await asyncio.to_thread(abs, -2)]
            assert not any(each.done() for each in hanging)
            return answers
        finally:
            go_on.set()
            await asyncio.gather(*hanging)
            pools.close()

    assert asyncio.run(scenario()) == [1, 2]


def test_hanging_calls_leave_room_for_watches_and_for_the_store() -> None:
    go_on = threading.Event()

    async def scenario() -> list[int]:
        pools = Pools()
        hanging = [asyncio.ensure_future(pools.call(go_on.wait, 60)) for _ in range(200)]
        await asyncio.sleep(0)
        try:
            return [await pools.watch(abs, -1), await asyncio.to_thread(abs, -2)]
        finally:
            go_on.set()
            await asyncio.gather(*hanging)
            pools.close()

    assert asyncio.run(scenario()) == [1, 2]
