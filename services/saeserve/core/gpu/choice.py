"""K1 and K3: the k largest positive pre-activations of each row, exactly.

    h = x W^T + b in low precision, and a bound E on the error of a row's entries before they are
        rounded
    K1: the k-th largest of the maxima of disjoint groups of columns is a level that k entries of h
        reach. So the true k-th largest is at least T = max(0, level - rounding - E), and only
        entries that may be T or more can be among the k largest: h >= cut. Groups that have one
        are listed.
    K3: entries of those groups that reach the cut are computed in float32, or are exact already.
        The k largest are kept, of equals those of lower latents, in ascending order of latent.

Where the caller says so, K3 computes only entries whose place is open. Of the entries that reach
the cut, let u be the (k + 1)-th largest of h, or the cut if there are no more than k. What is not
among the k largest by h is at most U = u + rounding + E, so an entry with h - rounding - E > U is
among the k largest in truth, and no other one takes its place; it keeps the value h of the product.
What is left of the k places goes to the open entries, by their values in float32. Bounds are
proven, so the choice is the same.

A list holds at least `k + ENTRIES` entries. When it is full, its k largest so far take its place,
which loses nothing, so any number of candidates is handled: no row is ever wrong, a row of many
ties is slow. `choice_short` takes rows of few candidates, `choice_long` the others, and computes
all of theirs. Not a number counts as the largest.

With C candidates a row, U of which are computed. K1: bytes 2 B m of h (4 B m in float32), and three
times 4 B m / WIDTH of maxima. K3: bytes 4 B U d of gathered weights and 8 B C of lists; FLOPs
2 B U d. A launch each. C and U are the data's; `expected` says how many are likely.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from saeserve.core.gpu import choice_long, choice_short
from saeserve.core.gpu.choice_lists import groups_kernel
from saeserve.core.gpu.choice_long import choose_kernel
from saeserve.core.gpu.choice_short import short_kernel
from saeserve.core.gpu.expected import candidates, uncertain
from saeserve.core.gpu.launch import Work, launch

ENTRIES = 512
"""Entries that a program of K3 looks at in one go."""
AT_ONCE = 2048
"""Entries of which a program of K1 takes the groups' maxima in one go."""
MOST_GROUPS = 4096
WIDEST_GROUP = 32
LONGEST_LIST = 4096
"""A program holds it in registers."""
UNITS = {torch.float16: (1.01 * 2**-11, 2**-24), torch.float32: (0.0, 0.0)}
"""What rounding changes at most: as a share of the rounded number, and below normal numbers."""
LARGEST = {torch.float16: 65504.0, torch.float32: 3.4028234e38}


@dataclass(frozen=True)
class Chosen:
    """What is kept of each row, in ascending order of latent; first the largest, where so many were
    to come first. Where fewer entries are positive than there are places, the last ones have the
    value 0, at latents that mean nothing."""

    values_BK: Tensor
    latents_BK: Tensor
    """int32"""


def possible(k: int, latents: int) -> bool:
    """Whether lists of so many entries fit a program, and groups of columns do."""
    return k + ENTRIES <= LONGEST_LIST and group_width(latents, k) <= ENTRIES


def top(h_BF: Tensor, k: int, first: int | None = None) -> Chosen:
    """The choice among pre-activations that are exact; the largest `first` come first."""
    errors_B = h_BF.new_zeros(h_BF.shape[0])
    return _choose(h_BF, errors_B, (first or k, k), None)


def top_of_low(
    h_BF: Tensor,
    errors_B: Tensor,
    k: int,
    x_BD: Tensor,
    weights: tuple[Tensor, Tensor],
    first: int | None = None,
    *,
    only_open: bool = False,
) -> Chosen:
    """The choice by x W^T + b in float32, with `weights` W [F, D] and b [F]; `h_BF` is the same in
    low precision, and `errors_B` bounds the error of a row's entries before they were rounded.
    With `only_open` entries that are surely chosen keep their values of `h_BF`, where none come
    first."""
    return _choose(h_BF, errors_B, (first or k, k), (x_BD, *weights), only_open=only_open)


def _reaching(h_BF: Tensor, errors_B: Tensor, k: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """K1 with groups of `width` columns: groups that reach the cut, their counts, the cuts."""
    rows, latents = h_BF.shape
    groups = triton.cdiv(latents, width)
    maxima_BG, groups_BG = h_BF.new_empty(2, rows, groups, dtype=torch.int32)
    counts_B, cuts_B = h_BF.new_empty(rows, dtype=torch.int32), torch.empty_like(errors_B)
    numbers = (k, latents, groups, *UNITS[h_BF.dtype], LARGEST[h_BF.dtype])
    launch(
        groups_kernel,
        (rows,),
        (h_BF, errors_B, maxima_BG, groups_BG, counts_B, cuts_B, *numbers),
        Work(bytes=rows * (h_BF.itemsize * latents + 12 * groups)),
        WIDTH=width,
        AT_ONCE=max(1, AT_ONCE // width),
        GROUPS=triton.next_power_of_2(groups),
    )
    return groups_BG, counts_B, cuts_B


def _choose(
    h_BF: Tensor,
    errors_B: Tensor,
    sizes: tuple[int, int],
    exact: tuple[Tensor, Tensor, Tensor] | None,
    *,
    only_open: bool = False,
) -> Chosen:
    """K1 and K3."""
    first, k = sizes
    only_open = only_open and first == k
    (rows, latents), capacity = h_BF.shape, triton.next_power_of_2(k + ENTRIES)
    width = group_width(latents, k)
    groups_BG, counts_B, cuts_B = _reaching(h_BF, errors_B, k, width)
    list_i, list_v = groups_BG.new_empty(rows, capacity), errors_B.new_empty(rows, capacity)
    chosen = Chosen(errors_B.new_empty(rows, k), list_i.new_empty(rows, k))
    factors = (errors_B, errors_B, errors_B) if exact is None else exact
    computed = 0 if exact is None else exact[0].shape[1]
    depth, found = max(1, computed), (k, latents, width, computed)
    listed, again = candidates(*found), (uncertain if only_open else candidates)(*found)
    lists = groups_BG, counts_B, cuts_B, *factors, list_i, list_v
    numbers = (first, k, latents, groups_BG.shape[1], depth)
    pending_B = torch.empty_like(counts_B)
    constants = {
        **{"EXACT": exact is None, "PARTED": first < k},
        **{"WIDTH": width, "STEP": ENTRIES // width, "CAPACITY": capacity},
    }
    out = chosen.values_BK, chosen.latents_BK
    launch(
        short_kernel,
        (rows,),
        (h_BF, errors_B, *lists, pending_B, *out, *numbers, *UNITS[h_BF.dtype]),
        _work_of_lists(rows * listed, rows * again, computed),
        ONLY_OPEN=only_open,
        **constants,
        **choice_short.launch_of(k, depth),
    )
    launch(
        choose_kernel,
        (triton.cdiv(rows, choice_long.ROWS),),
        (pending_B, h_BF, *lists, *out, *numbers, rows),
        Work(bytes=4 * rows),
        **constants,
        ROWS=choice_long.ROWS,
        BLOCK=triton.next_power_of_2(depth),
        num_warps=choice_long.WARPS,
    )
    return chosen


def _work_of_lists(listed: int, computed: int, depth: int) -> Work:
    """Work of K3 on so many candidates; `depth` is 0 where they are exact already."""
    return Work(bytes=8 * listed, flops=2 * computed * depth, gathered=4 * computed * depth)


def group_width(latents: int, k: int) -> int:
    """Columns of a group: at most 32, fewer where there would be less than 4 k groups, more where
    there would be too many for a program."""
    width = WIDEST_GROUP
    while width > 1 and width * 4 * k > latents:
        width //= 2
    while triton.cdiv(latents, width) > MOST_GROUPS:
        width *= 2
    return width
