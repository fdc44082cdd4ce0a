"""Threads for handlers, so that one kind of call cannot starve another.

Calls that need the index wait for it, up to its timeout, when it hangs. They have threads of their
own, and watches, which look again and again, have others. What reads the store alone runs in the
event loop's default threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_CALLS = 32
_WATCHES = 16


class Pools:
    """Close it after the server that uses it."""

    def __init__(self) -> None:
        self._calls = ThreadPoolExecutor(_CALLS, "call")
        self._watches = ThreadPoolExecutor(_WATCHES, "watch")

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what may wait for the index."""
        return await _run(self._calls, partial(function, *args, **kwargs))

    async def watch(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a look of a watch."""
        return await _run(self._watches, partial(function, *args, **kwargs))

    def close(self) -> None:
        """Take no more work; what runs is not waited for."""
        for pool in (self._calls, self._watches):
            pool.shutdown(wait=False, cancel_futures=True)


async def _run(pool: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    # The context has the request's id, which lines logged in the thread name as well.
    run = partial(copy_context().run, function)
    return await asyncio.get_running_loop().run_in_executor(pool, run)
