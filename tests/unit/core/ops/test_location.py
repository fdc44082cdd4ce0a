"""Means and geometric medians."""

from __future__ import annotations

import torch

from saeserve.core.ops.location import centre_of, geometric_median


def test_on_a_line_the_geometric_median_is_the_median() -> None:
    rows = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [30.0, 60.0], [-9.0, -18.0]])
    torch.testing.assert_close(
        centre_of(rows, "geometric_median"), torch.tensor([1.0, 2.0]), rtol=0, atol=1e-2
    )


def test_an_outlier_moves_the_mean_and_not_the_geometric_median() -> None:
    rows = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    rows[0] = 1e6
    assert float(centre_of(rows, "geometric_median").abs().max()) < 0.5
    assert float(centre_of(rows, "mean").abs().min()) > 1e3


def test_equal_rows_are_their_own_median() -> None:
    rows = torch.full((5, 2), 7.0, dtype=torch.float64)
    torch.testing.assert_close(geometric_median(rows), rows[0])
