"""Signs that work moves on, for whoever looks whether it has come to a standstill.

What reads, writes or computes for long calls `moved` after each part (a block of a file, a shard, a
kernel); whoever runs it listens. Threads begin with no listener: work that is done ahead of time
does not hide that the thread which needs it stands still, unless it is run in that one's context.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from contextvars import ContextVar

_listener: ContextVar[Callable[[], None] | None] = ContextVar("moved", default=None)


def moved() -> None:
    """Say that a part of the work is done; costs next to nothing."""
    if (listener := _listener.get()) is not None:
        listener()


@contextlib.contextmanager
def listening(listener: Callable[[], None]) -> Generator[None]:
    """Call `listener` at each `moved` of this context while the block runs."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
