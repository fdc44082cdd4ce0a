"""Projection, renormalisation, norm and clip."""

from __future__ import annotations

import math

import pytest
import torch

from saeserve.core.ops import norms


def test_a_projected_gradient_is_tangent_and_keeps_what_was_tangent() -> None:
    unit = norms.renormalise_rows_(torch.randn(7, 5, dtype=torch.float64))
    gradient = torch.randn(7, 5, dtype=torch.float64)
    along = (gradient * unit).sum(dim=1, keepdim=True) * unit
    projected = norms.project_rows_(gradient.clone(), unit)
    assert float((projected * unit).sum(dim=1).abs().max()) < 1e-14
    torch.testing.assert_close(projected, gradient - along)
    torch.testing.assert_close(norms.project_rows_(projected.clone(), unit), projected)


def test_rows_get_unit_norm_and_a_zero_row_stays_zero() -> None:
    rows = norms.renormalise_rows_(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 1e-12]]))
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 1.0]]))


def test_the_norm_spans_all_gradients() -> None:
    assert float(norms.global_norm([torch.tensor([3.0]), torch.tensor([[4.0]])])) == 5.0


@pytest.mark.parametrize(("limit", "expected"), [(1.0, 0.2), (10.0, 1.0), (0.0, 1.0)])
def test_clipping_scales_all_alike_and_only_down(limit: float, expected: float) -> None:
    gradients = [torch.tensor([3.0]), torch.tensor([[4.0]])]
    norms.clip_(gradients, norms.global_norm(gradients), limit)
    assert float(gradients[0]) == pytest.approx(3 * expected)
    assert float(gradients[1]) == pytest.approx(4 * expected)


def test_a_zero_gradient_stays_zero_and_nan_is_shown() -> None:
    zero, bad = [torch.zeros(2)], [torch.ones(2), torch.tensor([math.nan])]
    norms.clip_(zero, norms.global_norm(zero), 1.0)
    norms.clip_(bad, norms.global_norm(bad), 1.0)
    assert torch.equal(zero[0], torch.zeros(2))
    assert bool(bad[0].isnan().all())
