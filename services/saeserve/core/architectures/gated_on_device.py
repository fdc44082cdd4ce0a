"""The gated SAE's step in Triton: the gradients of `loss` by seven products, in float16 unless
float32 is asked for. Both reconstructions share one product, and so do the gradients by them.

It runs on a GPU where Triton is installed. Open gates and active latents are those of float32;
nothing synchronises; no tensor [B, F] is wider than 2 bytes an entry in float16.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.architectures import penalty
from saeserve.core.architectures.contract import Batch, Context, Stats, StepOutput, Tensors
from saeserve.core.architectures.dense_on_device import decoder_gradient, encoder_gradient, norms_of
from saeserve.core.architectures.initialisation import input_bias
from saeserve.core.gpu_dense import gated as dense_gated
from saeserve.core.gpu_dense.rows import (
    errors,
    fit_of,
    product,
    rounded_product,
    scaled,
    weights,
)
from saeserve.core.specs.architectures.gated import GatedSpec


class GatedStep:
    """The gradients of one micro-batch."""

    def __init__(self, spec: GatedSpec, params: Tensors, batch: Batch, ctx: Context) -> None:
        kind, widths = ctx.encoder_dtype, batch.target_widths
        self._params, self._widths, self._rows = params, widths, batch.x_BD.shape[0]
        self._target_gradient = batch.target_gradient
        self._x = scaled(batch.x_BD - input_bias(params), kind)
        W_enc, self._W_dec = (weights(params[name], kind) for name in ("W_enc", "W_dec"))
        self._e_F = params["r_mag"].exp()
        vectors = dense_gated.Vectors(params["b_gate"], params["b_mag"], self._e_F)
        self._both_XF = dense_gated.fire(self._x, W_enc, vectors)
        decoded_XO = product(self._both_XF, self._W_dec.low_XD)
        self._residual, self._squares_X = errors(
            decoded_XO, self._x.scales, batch.target_BO, params["b_dec"], kind
        )
        self._weight = penalty.weight(spec, ctx) / self._rows
        weighed_F = norms_of(self._W_dec, widths) if widths else torch.ones_like(self._e_F)
        self._price_F = self._weight * weighed_F

    def output(self, state: Tensors) -> StepOutput:
        """Loss terms and gradients of the batch; `state` is returned unchanged."""
        rows, x, residual = self._rows, self._x, self._residual
        fit_F = fit_of(self._bound(), residual)
        along_XF = rounded_product(residual.low_XD, self._W_dec.low_XD.T)
        scales, vectors = (x.scales, residual.scales), (self._e_F, self._price_F, fit_F)
        sums_SF = dense_gated.back(self._both_XF, along_XF, scales, vectors, -2 / rows)
        squared_error, frozen_error = self._squares_X[:rows].sum(), self._squares_X[rows:].sum()
        terms = {
            "reconstruction": squared_error / rows,
            "sparsity": (self._price_F * sums_SF[3]).sum(),
            "auxiliary": frozen_error / rows,
        }
        to_W_enc = encoder_gradient(along_XF[:rows], x.low_XD, x.scales[1] / fit_F, None)
        return StepOutput(
            loss=torch.stack(list(terms.values())).sum(),
            terms=terms,
            grads={"W_enc": to_W_enc, "W_dec": self._decoder(sums_SF[3]), **self._vectors(sums_SF)},
            state=state,
            stats=Stats(sums_SF[4].long(), squared_error),
            to_target_BO=self._to_target(),
        )

    def _to_target(self) -> Tensor | None:
        """Where it is asked for: by both reconstructions, of which the frozen one has the target
        in it as well."""
        if not self._target_gradient:
            return None
        errors_XO, rows = self._residual.rows_XD, self._rows
        return 2 / rows * (errors_XO[:rows] + errors_XO[rows:])

    def _bound(self) -> Tensor:
        """A bound on |d loss / d v| of each latent, by Cauchy and Schwarz."""
        longest = self._residual.norm_X.amax() * self._residual.scales[1]
        by_f_F = 2 / self._rows * longest * self._W_dec.norm_X
        return (1 + self._e_F) * by_f_F + self._price_F

    def _decoder(self, open_F: Tensor) -> Tensor:
        rows, widths = self._rows, self._widths
        undo = -2 / rows * self._x.scales[1] * self._residual.scales[1]
        to_norm_F = self._weight * open_F if widths else None
        low_BO = self._residual.low_XD[:rows]
        return decoder_gradient(self._both_XF[:rows], low_BO, undo, to_norm_F, self._W_dec, widths)

    def _vectors(self, sums_SF: Tensor) -> Tensors:
        """Gradients of the vectors; where f > 0, e^r v is f - b_mag."""
        gate_F, mag_F, along_f_F = sums_SF[:3]
        to_b_dec = -2 / self._rows * self._residual.rows_XD[: self._rows].sum(0)
        to_input_D = -((self._e_F * mag_F + gate_F) @ self._params["W_enc"])
        found = {
            "b_gate": gate_F,
            "b_mag": mag_F,
            "r_mag": along_f_F - self._params["b_mag"] * mag_F,
        }
        if "b_pre" in self._params:
            return {**found, "b_dec": to_b_dec, "b_pre": to_input_D}
        return {**found, "b_dec": to_b_dec + to_input_D}


@torch.no_grad()
def gated(
    spec: GatedSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
) -> StepOutput:
    """`Gated.loss` with gradients."""
    return GatedStep(spec, params, batch, ctx).output(state)
