"""A micro-batch by its listed entries: one GEMM, and gathered products."""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.kernels.compiled import array
from saeserve.core.kernels.jumprelu import by_latent, dense_kernels
from saeserve.core.kernels.jumprelu.encoding import Encoder
from saeserve.core.kernels.jumprelu.entry_gradient import BAND, IN_BAND, SUMS
from saeserve.core.kernels.jumprelu.entry_lists import ByRow, sort_by_latent
from saeserve.core.kernels.jumprelu.passes import Firing, Pricing


class Listed:
    """A `Pass` in which listed entries say what is unlike the usual."""

    def __init__(self, entries: ByRow, x_BD: Tensor) -> None:
        self._entries = entries
        self._x_BD = x_BD
        self._sorted = sort_by_latent(entries)
        self._tanh_N = torch.empty_like(self._sorted.h_N)

    @property
    def usual_band(self) -> float:
        """As the interval's."""
        return self._entries.interval.in_band

    def forward(
        self, y_BO: Tensor, W_dec_FO: Tensor, threshold_F: Tensor, tanh_scale_F: Tensor
    ) -> Firing:
        """See `Pass`."""
        self._entries.decode_onto(y_BO, W_dec_FO, threshold_F)
        found = Firing.nothing(threshold_F)
        by_latent.firing(
            array(self._sorted.starts_F1),
            array(self._sorted.h_N),
            array(threshold_F),
            array(tanh_scale_F),
            array(found.counts_F),
            array(found.sums_FS),
            array(self._tanh_N),
        )
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
        sums_FS = W_dec_FO.new_zeros(W_dec_FO.shape[0], SUMS)
        by_latent.gradients(
            pricing.arrays(self.usual_band),
            array(self._sorted.starts_F1),
            array(self._sorted.rows_N),
            array(self._sorted.h_N),
            array(self._tanh_N),
            array(self._x_BD),
            array(error_BO),
            array(W_dec_FO),
            array(to_W_dec_FO),
            array(to_W_enc_FD),
            array(sums_FS),
        )
        return sums_FS


class ListedWithBand(Listed):
    """Lists active entries alone, in batches whose band is neither sparse nor nearly everything:
    one more product says what the others in the band add to the gradient for t."""

    def __init__(self, entries: ByRow, encoder: Encoder) -> None:
        super().__init__(entries, encoder.x_BD)
        self._interval, self._encoder = entries.interval, encoder

    def backward(
        self,
        pricing: Pricing,
        error_BO: Tensor,
        W_dec_FO: Tensor,
        to_W_dec_FO: Tensor,
        to_W_enc_FD: Tensor,
    ) -> Tensor:
        """See `Pass`."""
        sums_FS = super().backward(pricing, error_BO, W_dec_FO, to_W_dec_FO, to_W_enc_FD)
        along_F, entries_F = self._silent_band(pricing, error_BO, W_dec_FO)
        sums_FS[:, BAND] += pricing.per_error * along_F
        sums_FS[:, BAND] += (pricing.firing_F - pricing.silent_F) * entries_F
        sums_FS[:, IN_BAND] += entries_F
        return sums_FS

    def _silent_band(
        self, pricing: Pricing, error_BO: Tensor, W_dec_FO: Tensor
    ) -> tuple[Tensor, Tensor]:
        """<W_dec, sum of the error> over entries in the band that are not listed; their number."""
        encoder, edge_F = self._encoder, pricing.threshold_F - pricing.half_width
        # The edge as it is: rounding may move an entry over it, but no list depends on that.
        low_F = edge_F if encoder.exact else edge_F - encoder.b_F
        _lowest_F, high_F = encoder.levels(self._interval.low_F, self._interval.high_F)
        along_F, entries_F = torch.zeros_like(edge_F), torch.zeros_like(edge_F)
        low_error_BO, low_W_OF = encoder.low(error_BO), encoder.low(W_dec_FO).T
        for block in encoder.blocks():
            along_RF = (low_error_BO[block.first : block.last] @ low_W_OF).to(edge_F.dtype)
            dense_kernels.sum_band(
                array(block.h_RF),
                array(low_F),
                array(high_F),
                array(encoder.slack_F),
                array(block.scale_R),
                array(along_RF),
                array(along_F),
                array(entries_F),
            )
        return along_F, entries_F
