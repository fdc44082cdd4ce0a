"""Sums over a gradient's rows, written by the kernel that has just made it while its rows are in
registers.

    a = <g, w> of rows that the optimiser keeps unit;  |g - a w|^2 = <g, g> - a^2 (2 - <w, w>)

in float64, whose sums of float32 lose nothing that the difference needs. The optimiser needs both
before it can clip; without them it reads the gradients of both dictionaries, and the decoder, once
more. They hold as long as neither the gradient nor its parameter is changed, which torch counts:
whoever adds to a gradient (AuxK, a second micro-batch) makes the optimiser measure it.

Bytes of F rows in T tiles of columns: 8 F T read (unit rows: 24 F T), 8 F written. FLOPs: as many
additions. One launch a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary
from triton import language as tl

from saeserve.core.gpu.launch import Work, launch
from saeserve.core.gpu.shadows import version_of

BLOCK = 256
"""Rows that a program adds."""
ENCODER, DECODER = 1, 3
"""Sums of a row of the encoder's gradient, <g, g>; of the decoder's, <g, g>, <g, w> and <w, w>."""


@dataclass(frozen=True)
class Measured:
    """What is known of a gradient."""

    of_STF: Tensor
    """float64: <g, g> of each tile of each row; of unit rows <g, w> and <w, w> too."""
    state: tuple[int, ...]


_known: Any = WeakTensorKeyDictionary()


def keep(gradient: Tensor, parameter: Tensor, of_STF: Tensor) -> None:
    """Note what was measured of a gradient and its parameter as they are now."""
    _known[gradient] = Measured(of_STF, _state(gradient, parameter))


def take(gradient: Tensor, parameter: Tensor, *, unit: bool) -> Tensor | None:
    """What is known of them, once; None where they must be measured."""
    found: Measured | None = _known.pop(gradient, None)
    if found is None or found.state != _state(gradient, parameter):
        return None
    needed = DECODER if unit else ENCODER
    return found.of_STF[:needed] if found.of_STF.shape[0] >= needed else None


def _state(gradient: Tensor, parameter: Tensor) -> tuple[int, ...]:
    # Meta tensors have no address; there the parameter's version has to suffice.
    return (parameter.data_ptr(), version_of(gradient), version_of(parameter))


def collect(of_STF: Tensor, along: Tensor, squares: Tensor, *, unit: bool) -> None:
    """Write a (unit rows) and |g'|^2 of each row, as `update.measure` would."""
    _, tiles, rows = of_STF.shape
    numbers = (measured := DECODER if unit else ENCODER) * tiles * rows
    launch(
        norms_kernel,
        (triton.cdiv(rows, BLOCK),),
        (of_STF, along, squares, rows, tiles),
        Work(bytes=8 * numbers + 4 * min(measured, 2) * rows, flops=numbers),
        UNIT=unit,
        BLOCK=BLOCK,
    )


@triton.jit
def norms_kernel(
    moments: tl.tensor,
    along: tl.tensor,
    squares: tl.tensor,
    rows: int,
    tiles: int,
    UNIT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """A block of rows a program."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = row < rows
    square = tl.zeros([BLOCK], tl.float64)
    part = tl.zeros([BLOCK], tl.float64)
    weight = tl.zeros([BLOCK], tl.float64)
    for tile in range(tiles):
        at = moments + tl.cast(tile, tl.int64) * rows + row
        square += tl.load(at, mask=here, other=0.0)
        if UNIT:
            size = tl.cast(tiles, tl.int64) * rows
            part += tl.load(at + size, mask=here, other=0.0)
            weight += tl.load(at + 2 * size, mask=here, other=0.0)
    if UNIT:
        square -= part * part * (2.0 - weight)
        # Rounding may leave less than nothing; asked this way round, NaN stays NaN.
        square = tl.where(square < 0.0, 0.0, square)
        tl.store(along + row, part.to(tl.float32), mask=here)
    tl.store(squares + row, square.to(tl.float32), mask=here)
