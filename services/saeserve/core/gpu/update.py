"""The optimiser's step in two passes over the parameters: measure gradients, then move.

    a = <g, w>, where rows are unit, else 0;  g' = g - a w;  norm = sqrt(sum of all |g'|^2)
    g" = factor g', with factor = 1 where norm <= limit or limit = 0, else limit / norm
    m = beta1 m + (1 - beta1) g";  v = beta2 v + (1 - beta2) g"^2;  w = w - rate m / (sqrt(v) + eps)
    unit rows: w = w / max(|w|, least);  weights of products: low = float16(w), |w|, |w - low|

Bytes of P numbers: the first pass reads 4 P (unit rows: 8 P) of gradients that were not measured
when they were made (`measures`), the second reads 16 P and writes
12 P, and 2 P more where there is a low copy. FLOPs: 2 P (unit rows: 6 P) and 14 P. Launches: one a
parameter in each pass, one between them, and one that writes what changes with the step. A program
takes a row (of a vector: `CHUNK` numbers), which stays in registers; sums have one order, so two
runs are equal to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton import language as tl

from saeserve.core.gpu import measures
from saeserve.core.gpu.launch import Work, launch
from saeserve.core.gpu.shadows import Shadow

CHUNK = 1024
"""Numbers of a vector that a program takes."""
CLIPPED = 16_384
"""Numbers that the one program of the clip adds at once."""
WIDEST = 4096
"""Columns of a row that a program can hold in registers."""


class Rates(NamedTuple):
    """Adam's constants of one step."""

    beta1: float
    other1: float
    """1 - beta1"""
    beta2: float
    other2: float
    """1 - beta2"""
    rate: float
    """lr sqrt(1 - beta2^t) / (1 - beta1^t): both bias corrections."""
    eps: float
    """eps sqrt(1 - beta2^t)"""


def fits(tensors: Iterable[Tensor]) -> bool:
    """Whether a program can hold a row of each."""
    return all(t.ndim == 1 or (t.ndim == 2 and t.shape[1] <= WIDEST) for t in tensors)


def update_(
    params: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    moments: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    unit: frozenset[str],
    shadows: Mapping[str, Shadow],
    limit: float,
    rates_R: Tensor,
    least_norm: float,
) -> Tensor:
    """Move parameters and moments in place, and write the low copies in `shadows`; `rates_R` is
    `Rates` on the device.

    Returns the global norm of the projected gradients before the clip, float32 on the device.
    """
    names = sorted(params)
    rows = {name: _rows(params[name]) for name in names}
    device = params[names[0]].device
    squares = torch.empty(sum(rows.values()), device=device)
    scalars = torch.empty(2, device=device)
    along: dict[str, Tensor] = {}
    start = 0
    for name in names:
        part = squares[start : start + rows[name]]
        along[name] = torch.empty_like(part) if name in unit else part
        _measured(params[name], gradients[name], along[name], part, name in unit)
        start += rows[name]
    launch(
        clip_kernel,
        (1,),
        (squares, scalars, squares.numel(), float(limit)),
        Work(bytes=4 * squares.numel(), flops=squares.numel()),
        BLOCK=CLIPPED,
        num_warps=32,
    )
    for name in names:
        own = (moments[0][name], moments[1][name])
        move(
            *(params[name], gradients[name], own, along[name], (scalars, rates_R), least_norm),
            unit=name in unit,
            shadow=shadows.get(name),
        )
    return scalars[0]


def _measured(w: Tensor, g: Tensor, along: Tensor, squares: Tensor, unit: bool) -> None:
    """Take what the kernel that made the gradient has measured; else read the gradient."""
    known = measures.take(g, w, unit=unit)
    if known is None:
        measure(w, g, along, squares, unit)
    else:
        measures.collect(known, along, squares, unit=unit)


def measure(w: Tensor, g: Tensor, along: Tensor, squares: Tensor, unit: bool) -> None:
    """Write <g, w> (unit rows) and |g'|^2 of each row."""
    width, numbers = _width(w), w.numel()
    launch(
        measure_kernel,
        (squares.numel(),),
        (w, g, along, squares, width, numbers),
        Work(bytes=(8 if unit else 4) * numbers, flops=(6 if unit else 2) * numbers),
        UNIT=unit,
        **block_of(width),
    )


def move(
    w: Tensor,
    g: Tensor,
    moments: tuple[Tensor, Tensor],
    along: Tensor,
    scalars: tuple[Tensor, Tensor],
    least_norm: float,
    *,
    unit: bool,
    shadow: Shadow | None,
) -> None:
    """Apply Adam to each row; `scalars` are the norm with the clip's factor, and the rates."""
    width, numbers = _width(w), w.numel()
    # Where there is no copy, nothing is written there.
    copies = (w,) * 5 if shadow is None else (shadow.low_FD, *shadow.norms_4F)
    launch(
        move_kernel,
        (_rows(w),),
        (w, g, *moments, along, *scalars, *copies, width, numbers, least_norm),
        Work(bytes=(28 if shadow is None else 30) * numbers, flops=14 * numbers),
        UNIT=unit,
        SHADOW=shadow is not None,
        **block_of(width),
    )
    # Kernels write past torch, whose counter says whether a tensor is still what it was.
    for written in (w, *moments):
        torch.autograd.graph.increment_version(written)
    if shadow is not None:
        shadow.made_of(w)


def block_of(width: int) -> dict[str, int]:
    """How a program holds a row: the next power of two, in so many warps that registers suffice."""
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "num_warps": max(1, min(16, block // 256))}


def _width(tensor: Tensor) -> int:
    return tensor.shape[1] if tensor.ndim == 2 else min(CHUNK, tensor.numel())


def _rows(tensor: Tensor) -> int:
    return triton.cdiv(tensor.numel(), _width(tensor))


@triton.jit
def _own_row(width: int, size: int, BLOCK: tl.constexpr) -> tl.tensor:
    """The program's row, the places of its numbers, and which of these there are."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    at = row * width + column
    return row, at, (column < width) & (at < size)


@triton.jit
def measure_kernel(
    w: tl.tensor,
    g: tl.tensor,
    along: tl.tensor,
    squares: tl.tensor,
    width: int,
    size: int,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Row by row <g, w> and |g - <g, w> w|^2."""
    row, at, here = _own_row(width, size, BLOCK)
    gradient = tl.load(g + at, mask=here, other=0.0)
    if UNIT:
        weight = tl.load(w + at, mask=here, other=0.0)
        part = tl.sum(gradient * weight, 0)
        gradient -= part * weight
        tl.store(along + row, part)
    tl.store(squares + row, tl.sum(gradient * gradient, 0))


@triton.jit
def clip_kernel(
    squares: tl.tensor, scalars: tl.tensor, size: int, limit: float, BLOCK: tl.constexpr
) -> None:
    """The global norm, and the clip's factor."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(0, size, BLOCK):
        at = start + lane
        total += tl.load(squares + at, mask=at < size, other=0.0).to(tl.float64)
    norm = tl.sqrt(tl.sum(total, 0))
    # Asked this way round, a NaN norm makes the factor, and so every parameter, NaN.
    within = (limit == 0.0) | (norm <= limit)
    factor = tl.where(within, 1.0, limit / tl.where(within, 1.0, norm))
    tl.store(scalars, norm.to(tl.float32))
    tl.store(scalars + 1, factor.to(tl.float32))


@triton.jit
def store_norms(
    row_values: tl.tensor,
    rounded: tl.tensor,
    norms: tl.tensor,
    lost: tl.tensor,
    fourths: tl.tensor,
    lost_fourths: tl.tensor,
) -> None:
    """Norms of a row and of what rounding takes away, and their 4-norms. Each is scaled by the
    row's largest number, or by what rounding that one may take away, so that powers of small ones
    do not vanish. Padding is 0 in both."""
    largest = tl.max(tl.abs(row_values), 0)
    scale = tl.where(largest > 0.0, largest, 1.0)
    whole = row_values / scale
    whole *= whole
    lost_scale = tl.maximum(scale * 4.8828125e-4, 1e-30)
    left = (row_values - rounded.to(tl.float32)) / lost_scale
    left *= left
    tl.store(norms, scale * tl.sqrt(tl.sum(whole, 0)))
    tl.store(lost, lost_scale * tl.sqrt(tl.sum(left, 0)))
    tl.store(fourths, scale * tl.sqrt(tl.sqrt(tl.sum(whole * whole, 0))))
    tl.store(lost_fourths, lost_scale * tl.sqrt(tl.sqrt(tl.sum(left * left, 0))))


@triton.jit
def move_kernel(
    w: tl.tensor,
    g: tl.tensor,
    first: tl.tensor,
    second: tl.tensor,
    along: tl.tensor,
    scalars: tl.tensor,
    rates: tl.tensor,
    low: tl.tensor,
    norms: tl.tensor,
    lost: tl.tensor,
    fourths: tl.tensor,
    lost_fourths: tl.tensor,
    width: int,
    size: int,
    least_norm: float,
    UNIT: tl.constexpr,
    SHADOW: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Row by row: project, clip, Adam, unit norm, low copy."""
    row, at, here = _own_row(width, size, BLOCK)
    weight = tl.load(w + at, mask=here, other=0.0)
    gradient = tl.load(g + at, mask=here, other=0.0)
    if UNIT:
        gradient -= tl.load(along + row) * weight
    gradient *= tl.load(scalars + 1)
    # In the order of `Rates`.
    beta1, other1 = tl.load(rates), tl.load(rates + 1)
    beta2, other2 = tl.load(rates + 2), tl.load(rates + 3)
    mean = beta1 * tl.load(first + at, mask=here, other=0.0) + other1 * gradient
    square = beta2 * tl.load(second + at, mask=here, other=0.0) + other2 * gradient * gradient
    rate, eps = tl.load(rates + 4), tl.load(rates + 5)
    weight -= tl.where(here, rate * mean / (tl.sqrt(square) + eps), 0.0)
    if UNIT:
        norm = tl.sqrt(tl.sum(weight * weight, 0))
        # Asked this way round, NaN stays NaN.
        weight /= tl.where(norm < least_norm, least_norm, norm)
    tl.store(w + at, weight, mask=here)
    tl.store(first + at, mean, mask=here)
    tl.store(second + at, square, mask=here)
    if SHADOW:
        rounded = weight.to(tl.float16)
        tl.store(low + at, rounded, mask=here)
        store_norms(weight, rounded, norms + row, lost + row, fourths + row, lost_fourths + row)
