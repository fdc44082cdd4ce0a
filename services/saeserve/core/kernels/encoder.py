"""The one dense product of a step, h = x W^T + b, in blocks of rows that stay in the cache.

Shape suffixes: B rows, R rows of a block, D d_in, F d_sae.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from saeserve.core.kernels.rounding import Errors

ROWS = 256
"""Rows of a block: below, the GEMM loses speed; above, its result leaves the cache (measured at
d_in = 576, d_sae = 9216: 256 rows whose weights are packed once take 0.95 of the whole's time)."""


@dataclass(frozen=True)
class Encoder:
    """Pre-activations of centred rows; the GEMM's type is `low`, the bias is added in its own."""

    x_BD: Tensor
    W_FD: Tensor
    b_F: Tensor
    low: torch.dtype

    @classmethod
    def of(cls, x_BD: Tensor, W_FD: Tensor, b_F: Tensor, dtype: torch.dtype) -> Encoder:
        """`x_BD` is centred already, for rounding comes after centring; float32 stands for the
        parameters' own type."""
        return cls(x_BD, W_FD, b_F, W_FD.dtype if dtype == torch.float32 else dtype)

    @property
    def exact(self) -> bool:
        """Whether h is in the parameters' own type."""
        return self.low == self.W_FD.dtype

    def errors(self) -> Errors:
        """Of h after a product in bfloat16."""
        b_low_F = self.b_F if _packs() else self.b_F.to(self.low)
        return Errors.of(self.x_BD, self.W_FD, self.b_F, b_low_F)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """The first row of each block and its h [R, F], which the next block may overwrite."""
        product = _product(self.x_BD, self.W_FD, self.b_F, self.low)
        for start in range(0, self.x_BD.shape[0], ROWS):
            yield start, product(start, min(start + ROWS, self.x_BD.shape[0]))


_Product = Callable[[int, int], Tensor]


def _product(x_BD: Tensor, W_FD: Tensor, b_F: Tensor, low: torch.dtype) -> _Product:
    x_low, W_low = x_BD.to(low), W_FD.to(low)
    if low == torch.bfloat16 and _packs():
        return _packed(x_low, W_low, b_F)
    b_low, out_RF = b_F.to(low), x_low.new_empty(min(ROWS, x_BD.shape[0]), W_FD.shape[0])

    def product(start: int, stop: int) -> Tensor:
        h_RF = out_RF[: stop - start]
        return torch.addmm(b_low, x_low[start:stop], W_low.T, out=h_RF)

    return product


def _packs() -> bool:
    onednn = cast(Any, torch.ops.mkldnn)
    return torch.backends.mkldnn.is_available() and bool(onednn._is_mkldnn_bf16_supported())


def _packed(x_BD: Tensor, W_FD: Tensor, b_F: Tensor) -> _Product:
    """oneDNN's product with weights brought into its layout once a step instead of once a block."""
    onednn = cast(Any, torch.ops.mkldnn)
    packed = onednn._reorder_linear_weight(W_FD, ROWS)

    def product(start: int, stop: int) -> Tensor:
        h_RF: Tensor = onednn._linear_pointwise(
            x_BD[start:stop], packed, b_F.float(), "none", [], ""
        )
        return h_RF

    return product
