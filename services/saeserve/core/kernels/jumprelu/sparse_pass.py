"""A micro-batch by its listed entries: one GEMM, and gathered products."""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.kernels.compiled import arrays
from saeserve.core.kernels.encoder import Encoder
from saeserve.core.kernels.jumprelu import dense_pass, entries
from saeserve.core.kernels.jumprelu.entry_lists import ByRow
from saeserve.core.kernels.jumprelu.margins import Margins
from saeserve.core.kernels.jumprelu.passes import BAND, IN_BAND, SUMS, Firing, Gradients, Pricing
from saeserve.core.kernels.sort import by_latent


class Listed:
    """A `Pass` in which listed entries say what is unlike the usual."""

    def __init__(self, listed: ByRow, x_BD: Tensor) -> None:
        self._listed = listed
        self._x_BD = x_BD
        self._sorted = by_latent(listed, listed.width)
        self._tanh_N = torch.empty_like(self._sorted.values)

    @property
    def usual_band(self) -> float:
        """1 where the entries that are not listed are in the band, else 0."""
        return self._listed.interval.in_band

    def forward(
        self, y_BO: Tensor, W_dec_FO: Tensor, threshold_F: Tensor, tanh_scale_F: Tensor
    ) -> Firing:
        """Add f W_dec to y; returns how each latent fired."""
        self._listed.decode_onto(y_BO, W_dec_FO, threshold_F)
        found = Firing.nothing(threshold_F)
        entries.firing(
            *arrays(self._sorted.starts, self._sorted.values, threshold_F, tanh_scale_F),
            *arrays(found.counts_F, found.sums_FS, self._tanh_N),
        )
        return found

    def backward(
        self, pricing: Pricing, error_BO: Tensor, W_dec_FO: Tensor, total: Gradients
    ) -> Tensor:
        """Add to the weights' gradients; returns the sums of each latent [F, S]."""
        sums_FS = W_dec_FO.new_zeros(W_dec_FO.shape[0], SUMS)
        entries.gradients(
            pricing.arrays(self.usual_band),
            *arrays(self._sorted.starts, self._sorted.rows, self._sorted.values, self._tanh_N),
            *arrays(self._x_BD, error_BO, W_dec_FO, total.W_dec_FO, total.W_enc_FD, sums_FS),
        )
        return sums_FS


class ListedWithBand(Listed):
    """Lists active entries alone, in batches whose band is neither sparse nor nearly everything:
    one more product says what the others in the band add to the gradient for t."""

    def __init__(self, listed: ByRow, encoder: Encoder) -> None:
        super().__init__(listed, encoder.x_BD)
        self._interval, self._encoder = listed.interval, encoder

    def backward(
        self, pricing: Pricing, error_BO: Tensor, W_dec_FO: Tensor, total: Gradients
    ) -> Tensor:
        """Add to the weights' gradients; returns the sums of each latent [F, S]."""
        sums_FS = super().backward(pricing, error_BO, W_dec_FO, total)
        along_F, entries_F = self._silent_band(pricing, error_BO, W_dec_FO)
        sums_FS[:, BAND] += pricing.per_error * along_F
        sums_FS[:, BAND] += (pricing.firing_F - pricing.silent_F) * entries_F
        sums_FS[:, IN_BAND] += entries_F
        return sums_FS

    def _silent_band(
        self, pricing: Pricing, error_BO: Tensor, W_dec_FO: Tensor
    ) -> tuple[Tensor, Tensor]:
        """<W_dec, sum of the error> over entries in the band that are not listed; their number."""
        encoder, low_F = self._encoder, pricing.threshold_F - pricing.half_width
        margins = Margins.of(encoder)
        # The lower edge as it is: rounding may move an entry over it, but no list depends on that.
        _low_F, high_F = margins.levels(self._interval.low_F, self._interval.high_F)
        along_F, entries_F = torch.zeros_like(low_F), torch.zeros_like(low_F)
        low_error_BO, low_W_OF = error_BO.to(encoder.low), W_dec_FO.to(encoder.low).T
        for block, h_RF in encoder.wide_blocks():
            along_RF = (low_error_BO[block] @ low_W_OF).to(low_F.dtype)
            dense_pass.sum_band(
                *arrays(h_RF, low_F, high_F, margins.slack_F, margins.scale_B[block]),
                *arrays(along_RF, along_F, entries_F),
            )
        return along_F, entries_F
