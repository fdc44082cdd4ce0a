"""Numbers of a step on the device."""

from __future__ import annotations

import pytest
import torch

from saeserve.core.gpu.scalars import MOST, write_, written

CPU = torch.device("cpu")


@pytest.mark.sample
@pytest.mark.parametrize("count", [1, 6, MOST])
def test_every_number_has_its_place(count: int) -> None:
    numbers = [0.1 + 1.7**place for place in range(count)]
    assert torch.equal(written(numbers, CPU), torch.tensor(numbers))


def test_new_numbers_are_written_in_the_same_memory() -> None:
    scalars = written([1.0, 2.0, 3.0], CPU)
    whole = torch.cat([scalars, torch.full((2,), 9.0)])
    write_(whole[:3], [4.0, 5.0, torch.nan])
    assert torch.equal(whole[:2], torch.tensor([4.0, 5.0]))
    assert bool(whole[2].isnan())
    assert torch.equal(whole[3:], torch.tensor([9.0, 9.0]))


@pytest.mark.parametrize("count", [2, 4, MOST + 1])
def test_numbers_that_do_not_fit_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="numbers for a tensor of"):
        write_(torch.zeros(3), [1.0] * count)
    with pytest.raises(ValueError, match=f"at most {MOST} fit"):
        written([1.0] * (MOST + 1), CPU)
