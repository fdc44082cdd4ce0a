"""A micro-batch by dense products, in the encoder's type: where too much is active for lists."""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.kernels.compiled import array
from saeserve.core.kernels.jumprelu import dense_kernels
from saeserve.core.kernels.jumprelu.encoding import ROWS, Encoder
from saeserve.core.kernels.jumprelu.entry_gradient import SUMS
from saeserve.core.kernels.jumprelu.passes import Firing, Pricing


class Dense:
    """A `Pass` of five products. Inputs of the products are rounded to the encoder's type, sums
    over the batch are not; the active set is that of exact pre-activations. Two [B, F] temporaries
    in that type; what is between the products happens in blocks of rows that stay in the cache."""

    usual_band = 0.0

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._over_BF = encoder.keep()
        self._f_BF = torch.empty_like(self._over_BF)

    def forward(
        self, y_BO: Tensor, W_dec_FO: Tensor, threshold_F: Tensor, tanh_scale_F: Tensor
    ) -> Firing:
        """See `Pass`."""
        encoder, found = self._encoder, Firing.nothing(threshold_F)
        number, scale_B = array(threshold_F).dtype.type, encoder.scale()
        bias_F = torch.zeros_like(encoder.b_F) if encoder.exact else encoder.b_F
        layer = (array(encoder.W_FD), array(encoder.b_F))
        layer += (array(encoder.slack_F), array(encoder.bias_error_F))
        for rows in self._blocks():
            over_RF = self._over_BF[rows].to(y_BO.dtype)
            f_RF = torch.empty_like(over_RF)
            dense_kernels.fire(
                array(over_RF),
                array(f_RF),
                array(threshold_F),
                array(tanh_scale_F),
                array(bias_F),
                array(encoder.x_BD[rows]),
                *layer,
                array(scale_B[rows]),
                number(encoder.unit),
                array(found.counts_F),
                array(found.sums_FS),
            )
            # Rounding keeps the sign of h - threshold, which says what is active.
            self._over_BF[rows].copy_(over_RF)
            self._f_BF[rows].copy_(f_RF)
        y_BO += self._f_BF @ encoder.low(W_dec_FO)
        return found

    def backward(
        self,
        pricing: Pricing,
        error_BO: Tensor,
        W_dec_FO: Tensor,
        to_W_dec_FO: Tensor,
        to_W_enc_FD: Tensor,
    ) -> Tensor:
        """See `Pass`."""
        encoder, prices = self._encoder, pricing.arrays(self.usual_band)
        sums_SF = W_dec_FO.new_zeros(SUMS, W_dec_FO.shape[0])
        low_error_BO, low_W_OF = encoder.low(error_BO), encoder.low(W_dec_FO).T
        for rows in self._blocks():
            over_RF = self._over_BF[rows].to(error_BO.dtype)
            along_RF = (low_error_BO[rows] @ low_W_OF).to(error_BO.dtype)
            f_RF = self._f_BF[rows].to(error_BO.dtype)
            entries = (array(over_RF), array(f_RF), array(along_RF))
            dense_kernels.weigh_all(prices, *entries, array(sums_SF))
            self._over_BF[rows].copy_(along_RF)
        to_W_dec_FO.add_(self._f_BF.T @ low_error_BO, alpha=pricing.per_error)
        to_W_enc_FD += self._over_BF.T @ encoder.low(encoder.x_BD)
        return sums_SF.T

    def _blocks(self) -> list[slice]:
        rows = self._over_BF.shape[0]
        return [slice(first, min(first + ROWS, rows)) for first in range(0, rows, ROWS)]
