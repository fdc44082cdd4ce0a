"""ReLU's step in Triton: the gradients of `loss` by five products, in float16 unless float32 is
asked for.

It runs on a GPU where Triton is installed. Active latents are those of float32; nothing
synchronises; no tensor [B, F] is wider than 2 bytes an entry in float16.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.architectures import penalty
from saeserve.core.architectures.contract import Batch, Context, Stats, StepOutput, Tensors
from saeserve.core.architectures.dense_on_device import decoder_gradient, encoder_gradient, norms_of
from saeserve.core.gpu_dense import relu as dense_relu
from saeserve.core.gpu_dense.rows import (
    Operand,
    errors,
    fit_of,
    product,
    rounded_product,
    scaled,
    weights,
)
from saeserve.core.specs.architectures.relu import ReluSpec


@torch.no_grad()
def relu(spec: ReluSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context) -> StepOutput:
    """`Relu.loss` with gradients."""
    rows, kind, widths = batch.x_BD.shape[0], ctx.encoder_dtype, batch.target_widths
    x = scaled(batch.x_BD, kind)
    W_enc, W_dec = (weights(params[name], kind) for name in ("W_enc", "W_dec"))
    f_BF = dense_relu.fire(x, W_enc, params["b_enc"])
    decoded_BO = product(f_BF, W_dec.low_XD)
    residual, squares_B = errors(decoded_BO, x.scales, batch.target_BO, params["b_dec"], kind)
    weight = penalty.weight(spec, ctx) / rows
    plain = spec.unit_norm and not widths
    price_F = weight * (torch.ones_like(W_dec.norm_X) if plain else norms_of(W_dec, widths))
    fit_F = fit_of(_bound(residual, W_dec, price_F), residual)
    dh_BF = rounded_product(residual.low_XD, W_dec.low_XD.T)
    scales = (x.scales, residual.scales)
    to_b_F, f_sum_F, fired_F = dense_relu.back(f_BF, dh_BF, scales, price_F, fit_F, -2 / rows)
    undo = -2 / rows * x.scales[1] * residual.scales[1]
    to_norm_F = None if plain else weight * f_sum_F
    squared_error = squares_B.sum()
    terms = {"reconstruction": squared_error / rows, "sparsity": (price_F * f_sum_F).sum()}
    return StepOutput(
        loss=torch.stack(list(terms.values())).sum(),
        terms=terms,
        grads={
            "W_enc": encoder_gradient(dh_BF, x.low_XD, x.scales[1] / fit_F, None),
            "b_enc": to_b_F,
            "W_dec": decoder_gradient(f_BF, residual.low_XD, undo, to_norm_F, W_dec, widths),
            "b_dec": -2 / rows * residual.rows_XD.sum(0),
        },
        state=state,
        stats=Stats(fired_F.long(), squared_error),
        to_target_BO=2 / rows * residual.rows_XD if batch.target_gradient else None,
    )


def _bound(residual: Operand, W_dec: Operand, price_F: Tensor) -> Tensor:
    """A bound on |d loss / d f| of each latent, by Cauchy and Schwarz."""
    rows = residual.rows_XD.shape[0]
    longest = residual.norm_X.amax() * residual.scales[1]
    return 2 / rows * longest * W_dec.norm_X + price_F
