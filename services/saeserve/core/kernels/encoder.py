"""The one dense product of a step, h = x W^T + b, in blocks of rows that stay in the cache.

Shape suffixes: B rows, R rows of a block, D d_in, F d_sae.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from saeserve.core.kernels.rounding import Errors, Rounded

ROWS = 256
"""Rows of a block: below, the GEMM loses speed; above, its result leaves the cache (measured at
d_in = 576, d_sae = 9216: 256 rows whose weights are packed once take 0.95 of the whole's time)."""


class Encoder:
    """Pre-activations of rows, which are centred already, for rounding comes after centring.

    The GEMM is in `low`, the bias is added before its result is rounded; float32 stands for the
    parameters' own type.
    """

    def __init__(self, x_BD: Tensor, W_FD: Tensor, b_F: Tensor, dtype: torch.dtype) -> None:
        self.x_BD, self.W_FD, self.b_F = x_BD, W_FD, b_F
        self.low = W_FD.dtype if dtype == torch.float32 else dtype
        self._kept_BF: Tensor | None = None

    @classmethod
    def centring(
        cls, x_BD: Tensor, centre_D: Tensor, W_FD: Tensor, b_F: Tensor, dtype: torch.dtype
    ) -> Encoder:
        """Pre-activations of rows less their centre [D]."""
        if dtype != torch.bfloat16:
            return cls(x_BD - centre_D, W_FD, b_F, dtype)
        centred_BD, rounded = Rounded.centred(x_BD, centre_D)
        made = cls(centred_BD, W_FD, b_F, dtype)
        made._rounded_rows = rounded
        return made

    @property
    def exact(self) -> bool:
        """Whether h is in the parameters' own type."""
        return self.low == self.W_FD.dtype

    @cached_property
    def errors(self) -> Errors:
        """Bounds on the error of h after a product in bfloat16."""
        b_low_F = self.b_F if _packs() else self.b_F.to(self.low)
        return Errors.of(self._rounded_rows, self._rounded_weights, self.b_F, b_low_F)

    def not_finite(self) -> Tensor:
        """0, or NaN where a row or the bias has NaN or Inf (scalar)."""
        rows_X = self.x_BD if self.exact else self._rounded_rows.norm_X.double()
        return (rows_X.sum().to(self.x_BD) + self.b_F.sum()) * 0

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The rows of each block and its h [R, F], which the next block may overwrite."""
        rows = self.x_BD.shape[0]
        for start in range(0, rows, ROWS):
            block = slice(start, min(start + ROWS, rows))
            kept_BF = self._kept_BF
            yield block, self._product(block) if kept_BF is None else kept_BF[block]

    def wide_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The same with h in the parameters' type, for kernels that compute with it."""
        wide_RF = self.x_BD.new_empty(min(ROWS, self.x_BD.shape[0]), self.W_FD.shape[0])
        for block, h_RF in self.blocks():
            yield block, h_RF if self.exact else wide_RF[: h_RF.shape[0]].copy_(h_RF)

    def keep(self) -> Tensor:
        """All pre-activations [B, F], which blocks then come from."""
        if self._kept_BF is None:
            shape = self.x_BD.shape[0], self.W_FD.shape[0]
            kept_BF = torch.empty(shape, dtype=self.low, device=self.x_BD.device)
            for block, h_RF in self.blocks():
                kept_BF[block] = h_RF
            self._kept_BF = kept_BF
        return self._kept_BF

    @cached_property
    def _rounded_rows(self) -> Rounded:
        return Rounded.of(self.x_BD)

    @cached_property
    def _rounded_weights(self) -> Rounded:
        return Rounded.of(self.W_FD)

    @cached_property
    def _product(self) -> Callable[[slice], Tensor]:
        """The GEMM of some rows; weights are cast, and packed, once."""
        x_low, W_low = self.x_BD, self.W_FD
        if not self.exact:
            x_low, W_low = self._rounded_rows.low_XD, self._rounded_weights.low_XD
        if self.low == torch.bfloat16 and _packs():
            return _packed(x_low, W_low, self.b_F)
        b_low, size = self.b_F.to(self.low), min(ROWS, x_low.shape[0])
        out_RF = x_low.new_empty(size, W_low.shape[0])

        def product(block: slice) -> Tensor:
            h_RF = out_RF[: block.stop - block.start]
            return torch.addmm(b_low, x_low[block], W_low.T, out=h_RF)

        return product


def _packs() -> bool:
    onednn = cast(Any, torch.ops.mkldnn)
    return torch.backends.mkldnn.is_available() and bool(onednn._is_mkldnn_bf16_supported())


def _packed(x_BD: Tensor, W_FD: Tensor, b_F: Tensor) -> Callable[[slice], Tensor]:
    """oneDNN's product with weights brought into its layout once a step instead of once a block."""
    onednn = cast(Any, torch.ops.mkldnn)
    packed, b_float_F = onednn._reorder_linear_weight(W_FD, ROWS), b_F.float()

    def product(block: slice) -> Tensor:
        h_RF: Tensor = onednn._linear_pointwise(x_BD[block], packed, b_float_F, "none", [], "")
        return h_RF

    return product
