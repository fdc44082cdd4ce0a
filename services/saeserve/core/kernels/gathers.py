"""Sums and dots of gathered rows, the two products that sparse steps consist of.

Shape suffixes: N entries, G bags, F rows of W, D width. Entries of bag g stand at
offsets[g] .. offsets[g + 1]. Four rows are read at a time, so that the memory has four streams to
fetch. Every sum has one fixed order, whatever the number of threads.
"""

from __future__ import annotations

from saeserve.core.kernels.compiled import SHARES, Array, helper, kernel, prange
from saeserve.core.kernels.lanes import add, add_four, dot, four_dots, next_four


@helper
def first_bag(offsets: Array, share: int, shares: int) -> int:
    """The first bag of a share of the entries; shares part the bags, empty ones included."""
    bags = offsets.shape[0] - 1
    if share == shares:
        return bags
    wanted = offsets[bags] * share // shares
    low, high = 0, bags
    # Bisection: the bag in which the share's first entry stands.
    while low < high:
        middle = (low + high) // 2
        if offsets[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low if share > 0 else 0


@helper
def add_rows(
    out_D: Array, values_N: Array, rows_N: Array, start: int, stop: int, W_FD: Array
) -> None:
    """out += the sum of values[n] W[rows[n]] over start <= n < stop."""
    n = start
    # Four at a time, in the order that `lanes.add_four` states.
    while n + 4 <= stop:
        i, j, k, m = next_four(rows_N, n)
        a, b, c, e = next_four(values_N, n)
        add_four(out_D, a, W_FD[i], b, W_FD[j], c, W_FD[k], e, W_FD[m])
        n += 4
    while n < stop:
        add(out_D, values_N[n], W_FD[rows_N[n]])
        n += 1


@helper
def dot_rows(out_N: Array, y_D: Array, rows_N: Array, start: int, stop: int, W_FD: Array) -> None:
    """out[n] = <W[rows[n]], y> for start <= n < stop; equal rows have equal results."""
    n = start
    # Four at a time, each sum for itself.
    while n + 4 <= stop:
        i, j, k, m = next_four(rows_N, n)
        out_N[n], out_N[n + 1], out_N[n + 2], out_N[n + 3] = four_dots(
            y_D, W_FD[i], W_FD[j], W_FD[k], W_FD[m]
        )
        n += 4
    while n < stop:
        out_N[n] = dot(y_D, W_FD[rows_N[n]])
        n += 1


@kernel
def sum_rows(values_N: Array, rows_N: Array, offsets: Array, W_FD: Array, out_GD: Array) -> None:
    """out[g] = the sum of values[n] W[rows[n]] over the entries of bag g."""
    for share in prange(SHARES):
        # The bags of the share, which have about as many entries as those of any other.
        for bag in range(first_bag(offsets, share, SHARES), first_bag(offsets, share + 1, SHARES)):
            out_GD[bag, :] = 0
            add_rows(out_GD[bag], values_N, rows_N, offsets[bag], offsets[bag + 1], W_FD)


@kernel
def dot_bags(y_GD: Array, rows_N: Array, offsets: Array, W_FD: Array, out_N: Array) -> None:
    """out[n] = <W[rows[n]], y[g]> for the entries n of every bag g."""
    for share in prange(SHARES):
        # The bags of the share, which have about as many entries as those of any other.
        for bag in range(first_bag(offsets, share, SHARES), first_bag(offsets, share + 1, SHARES)):
            dot_rows(out_N, y_GD[bag], rows_N, offsets[bag], offsets[bag + 1], W_FD)
