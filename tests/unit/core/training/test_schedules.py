"""The learning rate."""

from __future__ import annotations

import pytest

from saeserve.core.training.schedules import learning_rate


def rates(steps: int, warmup_steps: int, decay_fraction: float) -> list[float]:
    return [
        learning_rate(
            step, steps, peak=2.0, warmup_steps=warmup_steps, decay_fraction=decay_fraction
        )
        for step in range(steps)
    ]


def test_warm_up_is_linear_and_reaches_the_peak() -> None:
    assert rates(10, 4, 0.0) == pytest.approx([0.5, 1.0, 1.5] + [2.0] * 7)


def test_decay_is_linear_over_the_last_part_and_ends_above_zero_by_one_part() -> None:
    assert rates(10, 0, 0.4) == pytest.approx([2.0] * 7 + [1.5, 1.0, 0.5])
    after = learning_rate(10, 10, peak=2.0, warmup_steps=0, decay_fraction=0.4)
    assert after == 0.0


def test_without_either_the_rate_is_constant() -> None:
    assert rates(5, 0, 0.0) == [2.0] * 5


def test_where_both_meet_they_multiply() -> None:
    assert rates(4, 4, 1.0) == pytest.approx([0.5, 0.75, 0.75, 0.5])
