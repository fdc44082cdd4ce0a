"""A skip connection's products on a GPU, by tensor cores: float16 factors, float32 sums.

What x W^T explains is subtracted from the target, so float16 alone is too coarse for it. Each
factor is the sum of two numbers of float16, whose second is what the first one lost:

    s a = high + 2^-11 rest;  x W^T = (h_x h_W^T + 2^-11 (r_x h_W^T + h_x r_W^T)) / (s_x s_W)

The product of both rests is left out. So x W^T errs by at most 2^-20 of sum |x| |W|, and what sums
in float32 lose: some times as much as float32's own product, a thousandth of float16's. W's
gradient is one product of the first numbers alone, as those of the dictionaries are. s is the power
of two of `gpu_dense.rows`.

FLOPs of float16 products: 3 x 2 B D O and 2 B D O. Bytes: about 40 (B + O) D to part the factors,
40 B O to add the products, 10 B O for the gradient's factor, 8 O D for the gradient. Launches: 6
and torch's. Not timed on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.architectures.skip import Products
from saeserve.core.gpu_dense.rows import Operand, product, scaled

REST = 2.0**11
"""What float16 loses is at most this much smaller than the number."""


class DeviceProducts(Products):
    """Both products of one micro-batch, without synchronisation."""

    def __init__(self, W_OD: Tensor, x_BD: Tensor, encoder_dtype: torch.dtype) -> None:
        super().__init__(W_OD, x_BD)
        self._kind = encoder_dtype
        self._x, self._W = scaled(x_BD, encoder_dtype), scaled(W_OD, encoder_dtype)

    def explained(self) -> Tensor:
        """x W^T, [B, O], to 2^-20 of sum |x| |W|."""
        x, W = self._x, self._W
        made_BO = product(_rest(x), W.low_XD.T).add_(product(x.low_XD, _rest(W).T))
        made_BO.div_(REST).add_(product(x.low_XD, W.low_XD.T))
        return made_BO.mul_(x.scales[1] * W.scales[1])

    def gradient(self, to_target_BO: Tensor) -> Tensor:
        """W's gradient [O, D], with that of float16 factors."""
        factor = scaled(to_target_BO.contiguous(), self._kind)
        made_OD = product(factor.low_XD.T, self._x.low_XD)
        return made_OD.mul_(-self._x.scales[1] * factor.scales[1])


def _rest(factor: Operand) -> Tensor:
    """What was lost when the factor was rounded, `REST` times as large, in its type."""
    lost_XD = (factor.rows_XD * factor.scales[0]).sub_(factor.low_XD)
    return lost_XD.mul_(REST).to(factor.low_XD.dtype)
