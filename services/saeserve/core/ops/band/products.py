"""Inner products and sums of single rows, four at a time, for the kernels of this package.

Four rows together share the loads and stores of the fifth, which are what such loops wait for.
"""

from __future__ import annotations

from typing import Any

from saeserve.core.ops.compiled import Array, helper

Number = Any
"""An element of an array: numpy's stubs leave its type open, numba does not."""


@helper
def dot(y: Array, a: Array) -> Number:
    """<y, a>."""
    total = y.dtype.type(0)
    for k in range(y.size):
        total += y[k] * a[k]
    return total


@helper
def four_dots(
    y: Array, a: Array, b: Array, c: Array, d: Array
) -> tuple[Number, Number, Number, Number]:
    """<y, a>, <y, b>, <y, c>, <y, d>."""
    of_a = of_b = of_c = of_d = y.dtype.type(0)
    for k in range(y.size):
        of_a += y[k] * a[k]
        of_b += y[k] * b[k]
        of_c += y[k] * c[k]
        of_d += y[k] * d[k]
    return of_a, of_b, of_c, of_d


@helper
def add(y: Array, by_a: Number, a: Array) -> None:
    """y += by_a · a."""
    for k in range(y.size):
        y[k] += by_a * a[k]


@helper
def add_four(
    y: Array,
    by_a: Number,
    a: Array,
    by_b: Number,
    b: Array,
    by_c: Number,
    c: Array,
    by_d: Number,
    d: Array,
) -> None:
    """y += by_a · a + by_b · b + by_c · c + by_d · d."""
    for k in range(y.size):
        y[k] += by_a * a[k] + by_b * b[k] + by_c * c[k] + by_d * d[k]


@helper
def next_four(of_N: Array, place: int) -> tuple[Number, Number, Number, Number]:
    """Four consecutive elements."""
    return of_N[place], of_N[place + 1], of_N[place + 2], of_N[place + 3]
