"""Entries that exceed the thresholds of their latents, exactly, in rows of ascending latents.

    h = x W^T + b in low precision, E = a bound on the error of a row's entries before they are
    rounded, r = what rounding changes at most, t = the threshold of an entry's latent
    h - r - E > t: the entry exceeds it.  h + r + E <= t: it does not.  Others are uncertain.

The kernel goes over the rows twice. To count, it computes the uncertain entries in float32; to
write, all that may exceed their thresholds. Both runs are of one program, so they agree about every
entry. The rows lie one behind the other, in memory for a fixed number of entries: what does not fit
is counted and not written. Not a number counts as exceeding, so that it shows.

With U uncertain and C written entries a row. To count: bytes 2 B m of h (4 B m where h is exact),
4 B U d of gathered weights; FLOPs 2 B U d. To write: the same with C for U, and 16 B C of lists. A
launch each, and a sum over the counts between them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu.choice import UNITS
from saeserve.core.gpu.launch import Work, launch
from saeserve.core.gpu.update import block_of

AT_ONCE = 1024
"""Entries that a program looks at in one go."""


@dataclass(frozen=True)
class Listed:
    """The entries that exceed their thresholds, and zeros in what is left of the memory."""

    offsets: Tensor
    """int64 [B + 1], where each row begins, also beyond the memory."""
    latents_N: Tensor
    """int32"""
    values_N: Tensor


def above(h_BF: Tensor, threshold_F: Tensor, room: int) -> Listed:
    """The entries of `h_BF`, which is exact, in memory for `room` of them."""
    return _list(h_BF, h_BF.new_zeros(h_BF.shape[0]), threshold_F, room, None)


def above_of_low(
    h_BF: Tensor,
    errors_B: Tensor,
    threshold_F: Tensor,
    room: int,
    x_BD: Tensor,
    weights: tuple[Tensor, Tensor],
) -> Listed:
    """The entries of x W^T + b in float32, with `weights` W [F, D] and b [F]; `h_BF` is the same in
    low precision, and `errors_B` bounds the error of a row's entries before they were rounded."""
    return _list(h_BF, errors_B, threshold_F, room, (x_BD, *weights))


def _list(
    h_BF: Tensor,
    errors_B: Tensor,
    threshold_F: Tensor,
    room: int,
    exact: tuple[Tensor, Tensor, Tensor] | None,
) -> Listed:
    rows = h_BF.shape[0]
    counts_B = h_BF.new_empty(rows, dtype=torch.int32)
    offsets = h_BF.new_zeros(rows + 1, dtype=torch.int64)
    latents_N = h_BF.new_zeros(room, dtype=torch.int32)
    found = Listed(offsets, latents_N, errors_B.new_zeros(room))
    lists = counts_B.new_empty(rows, AT_ONCE), errors_B.new_empty(rows, AT_ONCE)
    inputs = (h_BF, errors_B, threshold_F, *(exact or (errors_B,) * 3), *lists)
    _run(inputs, counts_B, found, 0, exact is None)
    torch.cumsum(counts_B, 0, out=offsets[1:])
    if room:
        _run(inputs, counts_B, found, room, exact is None)
    return found


def _run(
    inputs: tuple[Tensor, ...], counts_B: Tensor, found: Listed, room: int, exact: bool
) -> None:
    h_BF, x_BD = inputs[0], inputs[3]
    rows, latents = h_BF.shape
    depth = 1 if exact else x_BD.shape[1]
    unit, tiny = UNITS[h_BF.dtype]
    # There is room for more entries than are expected; uncertain ones are few.
    entries = 0 if exact else room
    launch(
        above_kernel,
        (rows,),
        (
            *(*inputs, counts_B, found.offsets, found.latents_N, found.values_N),
            *(latents, depth, room, unit, tiny),
        ),
        Work(
            bytes=h_BF.nbytes + 16 * entries + 8 * room,
            flops=2 * entries * depth,
            gathered=4 * entries * depth,
        ),
        EXACT=exact,
        AT_ONCE=AT_ONCE,
        **launch_of(depth),
    )


def launch_of(depth: int) -> dict[str, int]:
    """How a program holds a row of weights, and entries: in enough warps for both."""
    row = block_of(depth)
    return row | {"num_warps": max(row["num_warps"], AT_ONCE // 256)}


@triton.jit(do_not_specialize=["room"])
def above_kernel(
    h: tl.tensor,
    errors: tl.tensor,
    thresholds: tl.tensor,
    x: tl.tensor,
    W: tl.tensor,
    b: tl.tensor,
    list_i: tl.tensor,
    list_v: tl.tensor,
    counts: tl.tensor,
    offsets: tl.tensor,
    latents: tl.tensor,
    values: tl.tensor,
    width: int,
    depth: int,
    room: int,
    unit: float,
    tiny: float,
    EXACT: tl.constexpr,
    AT_ONCE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A row a program; without room for entries it only counts. `room` is not specialised, so that
    counting and writing are one program."""
    row = tl.program_id(0).to(tl.int64)
    list_i += row * AT_ONCE
    list_v += row * AT_ONCE
    at = tl.arange(0, AT_ONCE)
    column_of_x = tl.arange(0, BLOCK)
    own = tl.zeros([BLOCK], tl.float32)
    if not EXACT:
        own = tl.load(x + row * depth + column_of_x, mask=column_of_x < depth, other=0.0)
    error = tl.load(errors + row)
    begin = tl.load(offsets + row)
    filled = 0
    for start in range(0, width, AT_ONCE):
        column = start + at
        here = column < width
        number = tl.load(h + row * width + column, mask=here, other=0.0).to(tl.float32)
        bound = tl.load(thresholds + column, mask=here, other=float("inf"))
        slack = unit * tl.abs(number) + tiny + error
        most = number + slack
        # What is not a number may be anything, and infinity may be a number that did not fit.
        possible = here & ((most > bound) | (most != most))
        if not EXACT:
            sure = (possible & (number - slack > bound)).to(tl.int32)
            wanted = tl.where((room > 0) | (sure == 0), possible.to(tl.int32), 0)
            many = tl.sum(wanted, 0)
            filled += tl.sum(possible.to(tl.int32), 0) - many
            spot = tl.cumsum(wanted, 0) - wanted
            tl.store(list_i + spot, column, mask=wanted > 0)
            tl.debug_barrier()
            for place in range(0, many):
                latent = tl.load(list_i + place).to(tl.int64)
                weights = tl.load(
                    W + latent * depth + column_of_x, mask=column_of_x < depth, other=0.0
                )
                tl.store(list_v + place, tl.sum(weights * own, 0) + tl.load(b + latent))
            tl.debug_barrier()
            possible = at < many
            number = tl.load(list_v + at, mask=possible, other=0.0)
            column = tl.load(list_i + at, mask=possible, other=0)
            bound = tl.load(thresholds + column, mask=possible, other=float("inf"))
            tl.debug_barrier()
        keep = (possible & ((number > bound) | (number != number))).to(tl.int32)
        target = begin + filled + tl.cumsum(keep, 0) - keep
        inside = (keep > 0) & (target < room)
        tl.store(values + target, number, mask=inside)
        tl.store(latents + target, column, mask=inside)
        filled += tl.sum(keep, 0)
    tl.store(counts + row, filled)
