"""The optimiser's two passes over a matrix, compiled: measure its gradient, then move it.

A row is taken as a whole, so what a pass needs twice is in cache the second time. Sums are float64
in an order of their own for every row: the bits do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from saeserve.core.kernels.compiled import Array, kernel, prange
from saeserve.core.kernels.lanes import moments, square


class Constants(NamedTuple):
    """What is the same for every entry, as scalars of the matrix's type: others would widen it."""

    factor: Any
    """Factor of gradient clipping."""
    beta1: Any
    other1: Any
    """1 - beta1"""
    beta2: Any
    other2: Any
    """1 - beta2"""
    rate: Any
    """lr √(1 - beta2^t) / (1 - beta1^t): both bias corrections."""
    eps: Any
    """eps √(1 - beta2^t): so the denominator is √v + eps, with one division less."""
    zero: Any
    tiny: Any
    """Moments below become zero: see `update.SMALLEST_MOMENT`."""


@kernel
def measure(g_FD: Array, w_FD: Array, unit: bool, moments_3F: Array) -> None:
    """For each row <g, g>, and where rows are `unit` <g, w> and <w, w>, else 0; all float64."""
    for row in prange(g_FD.shape[0]):
        along, of_w = 0.0, 0.0
        if unit:
            of_g, along, of_w = moments(g_FD[row], w_FD[row])
        else:
            of_g = square(g_FD[row])
        moments_3F[0, row], moments_3F[1, row], moments_3F[2, row] = of_g, along, of_w


@kernel
def move(
    w_FD: Array,
    g_FD: Array,
    first_FD: Array,
    second_FD: Array,
    along_F: Array,
    unit: bool,
    constants: Constants,
    least_norm: float,
) -> None:
    """Project, clip and apply each row's gradient to its moments and to `w`, all in place; bring
    `unit` rows back to norm 1. `along_F` is <g, w>, or 0, in the type of `w`, and used up."""
    c = constants
    for row in prange(g_FD.shape[0]):
        along = along_F[row]
        for column in range(g_FD.shape[1]):
            g = c.factor * (g_FD[row, column] - along * w_FD[row, column])
            first = c.beta1 * first_FD[row, column] + c.other1 * g
            second = c.beta2 * second_FD[row, column] + c.other2 * g * g
            # Asked this way round, NaN stays NaN.
            first = c.zero if abs(first) < c.tiny else first
            second = c.zero if second < c.tiny else second
            first_FD[row, column] = first
            second_FD[row, column] = second
            w_FD[row, column] -= c.rate * first / (np.sqrt(second) + c.eps)
        if unit:
            norm = np.sqrt(square(w_FD[row]))
            norm = least_norm if norm < least_norm else norm
            along_F[row] = 1.0 / norm
            scale = along_F[row]  # in the type of w
            for column in range(g_FD.shape[1]):
                w_FD[row, column] = w_FD[row, column] * scale
