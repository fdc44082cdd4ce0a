"""JumpReLU's step in Triton: the gradients of `loss` by five products, in float16 unless float32 is
asked for, and the passes of `core.gpu_dense.jumprelu`.

It runs on a GPU where Triton is installed. Active latents and the band are those of float32;
nothing synchronises; no tensor [B, F] is wider than 2 bytes an entry in float16.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.architectures.contract import Batch, Context, StepOutput, Tensors
from saeserve.core.architectures.dense_on_device import decoder_gradient, encoder_gradient, norms_of
from saeserve.core.architectures.jumprelu.fast import FastStep, Sums
from saeserve.core.gpu_dense import jumprelu as dense_jumprelu
from saeserve.core.gpu_dense import jumprelu_fire as dense_jumprelu_fire
from saeserve.core.gpu_dense.jumprelu_fire import Fired
from saeserve.core.gpu_dense.rows import (
    Operand,
    errors,
    fit_of,
    product,
    rounded_product,
    scaled,
    weights,
)
from saeserve.core.kernels.jumprelu.passes import Firing, Pricing
from saeserve.core.specs.architectures.jumprelu import JumpReluSpec


class DeviceStep(FastStep):
    """The gradients of one micro-batch."""

    def __init__(self, spec: JumpReluSpec, params: Tensors, batch: Batch, ctx: Context) -> None:
        self._W_low = weights(params["W_dec"], ctx.encoder_dtype)
        self._x = scaled(batch.x_BD, ctx.encoder_dtype)
        super().__init__(spec, params, batch, ctx)

    def _decoder_norms(self) -> Tensor:
        return norms_of(self._W_low, self._batch.target_widths)

    def _forward(self) -> tuple[Firing, Tensor, Tensor]:
        """How each latent fired, the errors, and the sum of their squares."""
        kind = self._ctx.encoder_dtype
        levels = (self._threshold_F, self._tanh_scale(), self._spec.bandwidth / 2)
        W_enc = weights(self._W_enc, kind)
        self._fired: Fired = dense_jumprelu_fire.fire(self._x, W_enc, self._b_enc, *levels)
        decoded_BO = product(self._fired.f_BF, self._W_low.low_XD)
        rows = (self._batch.target_BO, self._params["b_dec"])
        self._residual, squares_B = errors(decoded_BO, self._x.scales, *rows, kind)
        sums_SF = self._fired.sums_SF
        firing = Firing(sums_SF[4].long(), sums_SF[:3].T, sums_SF[3])
        return firing, decoded_BO, squares_B.sum()

    def _gradients(self, firing: Firing, sums: Sums, error_BO: Tensor) -> dict[str, Tensor]:
        pricing, widths = self._pricing(sums), self._batch.target_widths
        x, residual, fired = self._x, self._residual, self._fired
        fit_F = fit_of(_bound(pricing, residual, self._W_low), residual)
        along_BF = rounded_product(residual.low_XD, self._W_low.low_XD.T)
        scales = (x.scales, residual.scales)
        shift_F, band_F, entries_F = dense_jumprelu.back(
            fired.over_BF, along_BF, scales, pricing, fit_F
        )
        undo = pricing.per_error * x.scales[1] * residual.scales[1]
        to_norm_F = self._to_norms(firing, sums)
        # What the pre-act loss adds for all rows alike.
        shared = (-pricing.below_F, self._x_sum_D)
        return {
            "W_enc": encoder_gradient(along_BF, x.low_XD, x.scales[1] / fit_F, shared),
            "b_enc": shift_F - self._rows * pricing.below_F,
            "t": self._threshold_gradient(sums, band_F, entries_F),
            "W_dec": decoder_gradient(
                fired.f_BF, residual.low_XD, undo, to_norm_F, self._W_low, widths
            ),
            "b_dec": pricing.per_error * error_BO.sum(0),
        }


@torch.no_grad()
def jumprelu(
    spec: JumpReluSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
) -> StepOutput:
    """`JumpRelu.loss` with gradients."""
    return DeviceStep(spec, params, batch, ctx).output(state)


def _bound(pricing: Pricing, residual: Operand, W_dec: Operand) -> Tensor:
    """A bound on |d loss / d h| of each latent, by Cauchy and Schwarz."""
    longest = residual.norm_X.amax() * residual.scales[1]
    by_f_F = abs(pricing.per_error) * longest * W_dec.norm_X
    by_f_F += pricing.firing_F.abs() + pricing.silent_F.abs()
    return (1 + pricing.to_input_F) * by_f_F + pricing.below_F
