"""K2: the n largest positive pre-activations of a whole micro-batch, exactly.

`batch_lists` lists all entries that may be among the n + 1 largest, with their values in float32;
`batch_cut` keeps n of them, of equals those that come first by row and latent. Neither sorts, and
the host waits for nothing: the list has room for half as many again as are wanted and some for each
row. Further candidates, which only many equals or numbers that float16 cannot hold can be, are
computed again wherever they are looked at: right, and slow.

With m latents, groups of w columns and C candidates in all. Bytes: 2 B m of h (4 B m in float32);
28 B m / w of maxima; 4 C d of gathered weights; 44 C of lists; 8 n written. FLOPs: 2 C d. Launches:
14, and 4 of torch's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from saeserve.core.gpu import choice, digits
from saeserve.core.gpu.batch_cut import (
    keep_kernel,
    list_digits_kernel,
    plan_kernel,
    tally_kernel,
)
from saeserve.core.gpu.batch_lists import (
    collect_kernel,
    group_digits_kernel,
    hits_kernel,
    maxima_kernel,
)
from saeserve.core.gpu.choice import AT_ONCE, ENTRIES, LARGEST, UNITS
from saeserve.core.gpu.entries import Entries
from saeserve.core.gpu.expected import candidates
from saeserve.core.gpu.launch import Work, launch
from saeserve.core.kernels.csr import offsets_of

SPARE_A_ROW = 16
"""Room in the list for each row, in addition to one and a half times what is wanted."""
MOST = 2**31 - 1
"""Numbers of places have 32 bits."""
WIDEST_TILE = 256
EXACT_AT_ONCE = 4
"""Candidates of a row that are computed at once."""
BLOCK = 128
"""Candidates of a row that are looked at in one go."""
ROWS_AT_ONCE = 1024
WARPS = 2


@dataclass(frozen=True)
class BatchChosen:
    """What is kept of a micro-batch."""

    entries: Entries
    """In one group; places after the last row's stand for nothing."""
    level: Tensor
    """Half-way between the smallest kept and the largest left, neither counted below 0: float32, a
    number on the device."""


def possible(n: int, rows: int, latents: int) -> bool:
    """Whether places can be numbered, and groups of columns suffice to find candidates."""
    return choice.possible(triton.cdiv(n, rows), latents) and _capacity(n, rows) <= MOST


def _capacity(n: int, rows: int) -> int:
    return n + n // 2 + SPARE_A_ROW * rows


def top(h_BF: Tensor, n: int) -> BatchChosen:
    """The choice among pre-activations that are exact."""
    errors_B = h_BF.new_zeros(h_BF.shape[0])
    return _choose(h_BF, errors_B, n, None)


def top_of_low(
    h_BF: Tensor, errors_B: Tensor, n: int, x_BD: Tensor, weights: tuple[Tensor, Tensor]
) -> BatchChosen:
    """The choice by x W^T + b in float32; arguments as those of `choice.top_of_low`."""
    return _choose(h_BF, errors_B, n, (x_BD, *weights))


@dataclass(frozen=True)
class _Candidates:
    """What may be kept, and what is needed to compute any of it."""

    source: tuple[Tensor, ...]
    """h, the groups that have candidates, how many those are, cuts, offsets of rows; x, W, b"""
    list_i: Tensor
    list_v: Tensor
    sizes: tuple[int, int, int, int]
    """Latents, groups, d, room in the list."""
    constants: dict[str, int]
    expected: int
    """How many are likely, for counting work."""


def _choose(
    h_BF: Tensor, errors_B: Tensor, n: int, exact: tuple[Tensor, Tensor, Tensor] | None
) -> BatchChosen:
    n = min(n, h_BF.numel())
    return _cut(_candidates(h_BF, errors_B, n, exact), n)


def _candidates(
    h_BF: Tensor, errors_B: Tensor, n: int, exact: tuple[Tensor, Tensor, Tensor] | None
) -> _Candidates:
    """All that may be among the n + 1 largest, the last of which is the largest left."""
    (rows, latents), wanted = h_BF.shape, n + 1
    width = choice.group_width(latents, triton.cdiv(wanted, rows))
    maxima_BG = _maxima(h_BF, width)
    search = _level(maxima_BG, errors_B, wanted, h_BF.dtype)
    reaching, many_B = _reaching(h_BF, errors_B, maxima_BG, search, wanted, width)
    source = (h_BF, *reaching, offsets_of(many_B))
    depth = 0 if exact is None else exact[0].shape[1]
    count = rows * candidates(triton.cdiv(n, rows), latents, width, depth)
    # Where h is exact, nothing is computed from these.
    weights = (errors_B, errors_B, errors_B) if exact is None else exact
    capacity = _capacity(n, rows)
    list_i, list_v = many_B.new_empty(capacity), errors_B.new_empty(capacity)
    found = _Candidates(
        source=(*source, *weights),
        list_i=list_i,
        list_v=list_v,
        sizes=(latents, maxima_BG.shape[1], max(1, depth), capacity),
        constants={
            "EXACT": exact is None,
            "WIDTH": width,
            "TILE": min(WIDEST_TILE, triton.next_power_of_2(max(1, depth))),
            "MANY": EXACT_AT_ONCE,
        },
        expected=count,
    )
    launch(
        collect_kernel,
        (rows,),
        (*found.source, list_i, list_v, *found.sizes),
        Work(bytes=16 * count, flops=2 * count * depth, gathered=4 * count * depth),
        **found.constants,
        STEP=ENTRIES // width,
        num_warps=WARPS,
    )
    return found


def _maxima(h_BF: Tensor, width: int) -> Tensor:
    """The largest key of each group of so many columns."""
    (rows, latents), groups = h_BF.shape, triton.cdiv(h_BF.shape[1], width)
    maxima_BG = h_BF.new_empty(rows, groups, dtype=torch.int32)
    launch(
        maxima_kernel,
        (rows,),
        (h_BF, maxima_BG, latents, groups),
        Work(bytes=h_BF.numel() * h_BF.itemsize + 4 * maxima_BG.numel()),
        WIDTH=width,
        AT_ONCE=max(1, AT_ONCE // width),
    )
    return maxima_BG


def _level(
    maxima_BG: Tensor, errors_B: Tensor, wanted: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Search the level T that so many entries reach."""
    (rows, groups), search = maxima_BG.shape, digits.memory(errors_B)
    block = max(32, triton.next_power_of_2(groups))
    for number in range(digits.PASSES):
        launch(
            group_digits_kernel,
            (rows,),
            (maxima_BG, errors_B, *search, wanted, groups, *UNITS[dtype], LARGEST[dtype]),
            Work(bytes=4 * maxima_BG.numel()),
            PASS=number,
            GROUPS=block,
            num_warps=digits.warps_of(block),
        )
    return search


def _reaching(
    h_BF: Tensor,
    errors_B: Tensor,
    maxima_BG: Tensor,
    search: tuple[Tensor, Tensor],
    wanted: int,
    width: int,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Groups that reach the cut, their counts, the cuts; and how many candidates a row has."""
    (rows, latents), groups = h_BF.shape, maxima_BG.shape[1]
    hits_BG, cuts_B = torch.empty_like(maxima_BG), torch.empty_like(errors_B)
    hit_counts_B, many_B = maxima_BG.new_empty(2, rows)
    launch(
        hits_kernel,
        (rows,),
        (
            *(h_BF, errors_B, maxima_BG, *search, hits_BG, hit_counts_B, cuts_B, many_B),
            *(wanted, latents, groups, *UNITS[h_BF.dtype]),
        ),
        Work(bytes=8 * maxima_BG.numel()),
        WIDTH=width,
        STEP=ENTRIES // width,
        GROUPS=triton.next_power_of_2(groups),
    )
    return (hits_BG, hit_counts_B, cuts_B), many_B


def _cut(found: _Candidates, n: int) -> BatchChosen:
    """The n largest of the candidates."""
    source, listed, sizes = found.source, found.list_v, found.sizes
    rows, ints = source[0].shape[0], found.list_i.new_empty
    constants = {**found.constants, "BLOCK": BLOCK, "num_warps": WARPS}
    search, read = digits.memory(listed), Work(bytes=4 * found.expected)
    for number in range(digits.PASSES):
        arguments = (*source, listed, *search, n, *sizes)
        launch(list_digits_kernel, (rows,), arguments, read, PASS=number, **constants)
    tallies, quotas_B, starts = ints(rows, 3), ints(rows), ints(rows + 1)
    arguments = (*source, listed, *search, tallies, n, *sizes)
    launch(tally_kernel, (rows,), arguments, read, **constants)
    level = listed.new_empty(())
    arguments = (*search, tallies, quotas_B, starts, level, n, rows)
    launch(plan_kernel, (1,), arguments, Work(bytes=28 * rows), BLOCK=ROWS_AT_ONCE)
    values_N, latents_N = listed.new_empty(n), ints(n)
    arguments = (*source, found.list_i, listed, *search, quotas_B, starts, values_N, latents_N)
    launch(
        keep_kernel,
        (rows + triton.cdiv(n, BLOCK),),
        (*arguments, n, rows, *sizes),
        Work(bytes=8 * found.expected + 8 * n),
        **constants,
    )
    return BatchChosen(Entries(values_N, latents_N, starts, 1), level)
