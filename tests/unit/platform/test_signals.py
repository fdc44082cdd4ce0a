"""Signals that come while the one before is handled: none is waited for for ever."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from saeserve.platform.signals import SignalActor

SIGNALLED = """
import os, signal, sys, threading
from saeserve.platform.signals import SignalActor

class Locked(threading.Event):
    # A signal comes while the main thread is inside the event, as it may at any instruction.
    def wait(self, timeout=None):
        with self._cond:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return super().wait(timeout)

stopping = Locked()
{handle}
sys.exit(0 if stopping.wait(60) else 3)
"""
BY_THE_HANDLER = "signal.signal(signal.SIGTERM, lambda *_: stopping.set())"
BY_THE_ACTOR = "SignalActor(stopping.set).handle([signal.SIGTERM])"


def run(handle: str, seconds: float) -> int:
    script = SIGNALLED.format(handle=handle)
    return subprocess.run([sys.executable, "-c", script], timeout=seconds, check=False).returncode


def test_a_signal_while_the_main_thread_holds_the_events_lock() -> None:
    assert run(BY_THE_ACTOR, 60) == 0


def test_the_test_would_see_a_handler_that_sets_the_event() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run(BY_THE_HANDLER, 5)


@pytest.fixture
def counted() -> tuple[list[str], Callable[[], None]]:
    names: list[str] = []
    return names, lambda: names.append(threading.current_thread().name)


def test_it_acts_once_and_on_its_own_thread(
    counted: tuple[list[str], Callable[[], None]],
) -> None:
    names, action = counted
    actor = SignalActor(action)
    for _ in range(3):
        actor.request(15, None)
    actor.close()
    assert names == ["signal-actor"]


def test_it_does_not_act_unless_asked(counted: tuple[list[str], Callable[[], None]]) -> None:
    names, action = counted
    SignalActor(action).close()
    assert names == []
