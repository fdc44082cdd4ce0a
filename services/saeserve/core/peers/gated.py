"""Gated models, which are threshold models in other parameters."""

from __future__ import annotations

from torch import Tensor


def as_threshold(
    W_enc_DF: Tensor, b_gate_F: Tensor, b_mag_F: Tensor, r_mag_F: Tensor
) -> dict[str, Tensor]:
    """W_enc, b_enc and threshold of a gated encoder, float64 (Rajamanoharan et al. 2024).

    The gate opens where x w + b_gate > 0, which is where e^r x w + b_mag > b_mag - e^r b_gate; the
    magnitude's own ReLU makes negative thresholds 0.
    """
    scale_F = r_mag_F.double().exp()
    b_mag_F = b_mag_F.double()
    return {
        "W_enc": W_enc_DF.double() * scale_F,
        "b_enc": b_mag_F,
        "threshold": (b_mag_F - scale_F * b_gate_F.double()).clamp_min(0.0),
    }
