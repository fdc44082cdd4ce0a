"""Sums between reports."""

from __future__ import annotations

import torch

from saeserve.core.training.meter import Meter, spread, variation


def test_sums_are_kept_until_they_are_read() -> None:
    meter = Meter.empty()
    meter.add({"loss": torch.tensor(0.5), "rows": 3})
    meter.add({"loss": torch.tensor(0.25), "rows": 4})
    assert {name: float(value) for name, value in meter.take().items()} == {
        "loss": 0.75,
        "rows": 7.0,
    }
    assert meter.take() == {}


def test_what_is_added_is_not_written_to() -> None:
    meter, loss = Meter.empty(), torch.tensor(0.5, dtype=torch.float64)
    meter.add({"loss": loss})
    meter.add({"loss": loss})
    assert float(loss) == 0.5


def test_variation_over_micro_batches_is_that_around_the_mean_of_all() -> None:
    y = torch.randn(12, 5, dtype=torch.float64) + 3
    parts = [spread(y[start : start + 4]) for start in (0, 4, 8)]
    squares = torch.stack([part for part, _ in parts]).sum()
    total = torch.stack([part for _, part in parts]).sum(dim=0)
    expected = (y - y.mean(dim=0)).square().sum()
    torch.testing.assert_close(variation(squares, total, 12), expected)
