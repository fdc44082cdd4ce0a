"""Keeps a job process from outliving its worker, whatever its runner is doing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from saeserve.platform.process import die_with_parent

_LOOK_EVERY_S = 0.5


def end_with_parent(parent: int, stop: Callable[[], None], grace_s: float) -> None:
    """Stop gracefully once `parent` is gone, and leave for good `grace_s` later.

    The kernel's signal (SIGTERM) is prompt; the thread covers systems without it and a runner
    that does not come to a stop. Raises ProcessLookupError when the parent has gone already.
    """
    die_with_parent(parent, signal.SIGTERM)
    threading.Thread(target=_watch, args=(parent, stop, grace_s), daemon=True).start()


def _watch(parent: int, stop: Callable[[], None], grace_s: float) -> None:
    idle = threading.Event()
    while os.getppid() == parent:
        idle.wait(_LOOK_EVERY_S)
    stop()
    idle.wait(grace_s)
    os.killpg(os.getpgid(0), signal.SIGKILL)
