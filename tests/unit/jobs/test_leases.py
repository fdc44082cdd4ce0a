"""Leases and leadership end by the watcher's clock, whatever the broker's clock does."""

from __future__ import annotations

import pytest
from tests.fakes.jobs import TTL
from tests.fakes.reconciled import STRIDE, World

from saeserve.jobs.leases import SilenceWatch
from saeserve.jobs.record import Beat
from saeserve.jobs.states import JobState

STEPS = [10 * TTL, -10 * TTL, 1e7, -1e7]


def test_silence_is_counted_from_the_last_change() -> None:
    watch = SilenceWatch(gap_s=5)
    assert watch.look({"a": "1", "b": "1"}, 100.0) == {"a": 0.0, "b": 0.0}
    assert watch.look({"a": "1", "b": "2"}, 104.0) == {"a": 4.0, "b": 0.0}
    assert watch.look({"a": "1"}, 108.0) == {"a": 8.0}
    assert watch.look({"a": "1", "b": "2"}, 109.0) == {"a": 9.0, "b": 0.0}


def test_after_a_gap_all_begin_anew() -> None:
    watch = SilenceWatch(gap_s=5)
    watch.look({"a": "1"}, 100.0)
    assert watch.look({"a": "1"}, 105.1) == {"a": 0.0}
    watch.forget()
    assert watch.look({"a": "1"}, 106.0) == {"a": 0.0}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_the_brokers_clock_fences_nobody(world: World, step: float) -> None:
    world.submit("j-1")
    lease = world.begin()
    world.server.advance(step)
    for _ in range(10):
        assert world.tick(STRIDE).expired == 0
        assert world.index.beat(lease, TTL, None) is Beat.OK
    assert world.state() is JobState.RUNNING


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_the_brokers_clock_delays_no_takeover(world: World, step: float) -> None:
    world.submit("j-1")
    world.begin()
    world.tick()
    world.server.advance(step)
    assert world.wait(TTL - STRIDE)["expired"] == 0
    assert world.wait(2 * STRIDE)["expired"] == 1
    assert world.state() is JobState.QUEUED


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_the_brokers_clock_delays_no_new_leader(world: World, step: float) -> None:
    other = world.another("R2")
    for _ in range(3):
        assert world.tick().leading
        assert not other.tick().leading
    world.server.advance(step)
    assert world.tick().leading
    assert not other.tick().leading
    led: list[bool] = []
    for _ in range(12):
        world.clock.advance(1.0)
        led.append(other.tick().leading)
    assert led.index(True) in (9, 10)
    assert all(led[led.index(True) :])


def test_a_new_leader_has_counted_already(world: World) -> None:
    """A worker and the leader die together: its job waits for the longer of both silences."""
    other = world.another("R2")
    world.submit("j-1")
    world.begin()
    world.tick()
    other.tick()
    expired = 0
    for _ in range(round(TTL) + 1):
        world.clock.advance(1.0)
        expired += other.tick().expired
    assert expired == 1


def test_every_lease_lasts_as_long_as_its_worker_says(world: World) -> None:
    world.submit("j-1")
    lease = world.begin()
    assert world.index.beat(lease, 3 * TTL, None) is Beat.OK
    assert world.wait(2 * TTL)["expired"] == 0
    assert world.wait(TTL + STRIDE)["expired"] == 1
