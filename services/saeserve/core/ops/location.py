"""Where a cloud of rows lies: its mean or its geometric median."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

ITERATIONS = 100
TOLERANCE = 1e-7
"""Relative to the cloud's radius: an iteration that moves less is the last."""


def centre_of(rows_ND: Tensor, kind: Literal["mean", "geometric_median"]) -> Tensor:
    """[D], in the rows' type; sums are kept in float64."""
    rows = rows_ND.double()
    centre_D = rows.mean(dim=0) if kind == "mean" else geometric_median(rows)
    return centre_D.to(rows_ND.dtype)


def geometric_median(rows_ND: Tensor) -> Tensor:
    """The point of least summed distance, by Weiszfeld's iteration from the mean.

    Distances are kept above the tolerance, so that a start on a row does not divide by zero.
    """
    median_D = rows_ND.mean(dim=0)
    radius = float(_norms(rows_ND - median_D).mean())
    for _ in range(ITERATIONS):
        distance_N = _norms(rows_ND - median_D).clamp_min(max(TOLERANCE * radius, 1e-300))
        weight_N = distance_N.reciprocal()
        moved_D = (weight_N @ rows_ND) / weight_N.sum()
        if float(_norms(moved_D - median_D)) <= TOLERANCE * radius:
            return moved_D
        median_D = moved_D
    return median_D


def _norms(rows: Tensor) -> Tensor:
    return rows.square().sum(dim=-1).sqrt()
