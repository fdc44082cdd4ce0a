"""What every lane does, the one that is late included."""

from __future__ import annotations

import pytest
import torch
from tests.fakes.lanes import LateLane
from torch import Tensor

from saeserve.core.data.lane import HostLane, Lane, lane_to


def floats(values: Tensor) -> list[float]:
    return [float(value) for value in values]


@pytest.fixture(params=[HostLane, LateLane])
def lane(request: pytest.FixtureRequest) -> Lane:
    return request.param()


def test_what_is_staged_arrives(lane: Lane) -> None:
    staged = lane.staging((3, 2), torch.float16)
    staged.copy_(torch.arange(6.0).view(3, 2))
    sent = lane.send(staged)
    assert torch.equal(lane.receive(sent), torch.arange(6.0).view(3, 2).half())
    sent.copied.wait()
    staged.zero_()
    assert torch.equal(lane.receive(sent), torch.arange(6.0).view(3, 2).half())


def test_what_is_fetched_is_the_value_at_its_place(lane: Lane) -> None:
    value = torch.tensor([1.0, 2.0], dtype=torch.float64)
    fetched = lane.fetch(value)
    value.add_(1)
    assert floats(fetched.value()) == [1.0, 2.0]
    assert fetched.mark.passed()


def test_what_is_held_stays_as_it_was(lane: Lane) -> None:
    values = {"a": torch.ones(2), "b": torch.tensor(True)}
    held = lane.hold(values)
    values["a"].zero_()
    found = lane.bring(held)
    assert floats(found["a"]) == [1.0, 1.0]
    assert bool(found["b"])


def test_marks_pass_and_time_goes_on(lane: Lane) -> None:
    first, last = lane.mark(), lane.mark()
    last.wait()
    assert first.passed()
    assert lane.seconds(first, last) >= 0


def test_marks_of_another_lane_are_refused() -> None:
    with pytest.raises(TypeError, match="another lane"):
        HostLane().seconds(LateLane().mark(), LateLane().mark())


def test_the_lane_to_the_cpu_is_that_of_the_host() -> None:
    assert isinstance(lane_to(torch.device("cpu")), HostLane)


def test_the_late_lane_shows_what_a_real_one_may_hide() -> None:
    lane = LateLane(late=2)
    staged = lane.staging((2,), torch.float32)
    staged.copy_(torch.ones(2))
    sent = lane.send(staged)
    assert sent.tensor.isnan().all()
    staged.zero_()
    lane.receive(sent)
    assert lane.faults == ["staging memory was written to while it was copied"]
    fetched = lane.fetch(torch.ones(2))
    assert not fetched.mark.passed()
    assert fetched.host.isnan().all()
    assert [fetched.mark.passed(), fetched.mark.passed()] == [False, True]
    assert floats(fetched.host) == [1.0, 1.0]
