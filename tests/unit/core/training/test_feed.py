"""Preprocessed batches, and the share of the time that is spent on waiting for them."""

from __future__ import annotations

import pytest
import torch
from tests.fakes.sources import MemorySource

from saeserve.core.architectures.contract import Dimensions
from saeserve.core.data import lane
from saeserve.core.data.lane import HostLane
from saeserve.core.data.preprocess import Preprocessing
from saeserve.core.training.feed import Feed, Pace

ROWS = torch.arange(60.0).view(12, 5)
PREPROCESSING = Preprocessing(torch.full((5,), 1.5), 2.0)


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class SlowSource(MemorySource):
    """Takes three seconds for each batch."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(ROWS)
        self._clock = clock

    def batch(self, position: int, size: int) -> torch.Tensor:
        self._clock.now += 3.0
        return super().batch(position, size)


def test_rows_are_centred_scaled_and_parted() -> None:
    source = MemorySource(ROWS)
    found = Feed(source, PREPROCESSING, Dimensions(3, 2, 8), HostLane()).read(4, 6)
    expected = 2.0 * (source.batch(4, 6) - 1.5)
    assert torch.equal(found.x_BD, expected[:, :3])
    assert torch.equal(found.target_BO, expected[:, 3:])


def test_waiting_is_a_share_of_the_time_since_the_last_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(lane, "time", clock)
    slow = Feed(SlowSource(clock), PREPROCESSING, Dimensions(5, 5, 8), HostLane())
    slow.read(0, 4)
    pace = Pace(slow)
    for position in (4, 8):
        slow.read(position, 4)
        clock.now += 7.0
    assert pace.values(8) == {"tokens_per_second": 8 / 20, "data_wait_fraction": 6 / 20}
    clock.now += 10.0
    assert pace.values(5) == {"tokens_per_second": 5 / 10, "data_wait_fraction": 0.0}
