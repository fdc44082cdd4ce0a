"""TopK's step in Triton: the gradients of `loss`, with one dense product in low precision.

It runs on a GPU where Triton is installed. The choice and all values are those of float32: whatever
may be among the k largest is computed again. No tensor [B, F] is wider than 2 bytes an entry,
unless `encoder_dtype` asks for float32. AuxK is dense among the dead latents, and left out without
any. The host never waits for the device where the context bounds their number; without a bound it
does so once a micro-batch to count them, and where there are some once more to list them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.architectures import auxk
from saeserve.core.architectures.contract import Batch, Context, Stats, StepOutput, Tensors
from saeserve.core.architectures.initialisation import input_bias
from saeserve.core.architectures.topk.dictionaries import add_auxiliary, gradients_of
from saeserve.core.gpu import choice, reconstruction, rows, segments
from saeserve.core.gpu.choice import Chosen
from saeserve.core.specs.architectures.topk import TopKSpec


def possible(spec: TopKSpec, latents: int) -> bool:
    """Whether the kernels compute this spec: lists of k entries fit, and Multi-TopK is off."""
    most = max(spec.k, min(spec.k_aux or 0, latents))
    return choice.possible(most) and not spec.multi_topk_coefficient


@torch.no_grad()
def topk(spec: TopKSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context) -> StepOutput:
    """`TopK.loss` with gradients."""
    x_BD, chosen = _choose(spec.k, params, batch, ctx)
    found = reconstruction.reconstruct(chosen, params["W_dec"], params["b_dec"], batch.target_BO)
    weight = 1 / (batch.target_BO.shape[0] * state["variance"].to(x_BD))
    total = segments.gradients(
        chosen, found.dots_BK, (x_BD, found.residual_BO), params["W_enc"].shape[0], -2 * weight
    )
    squared_error = found.squares_B.sum()
    # What is not finite shows even where the choice or the target does not hold it.
    shown = (x_BD.sum() + params["b_enc"].sum()) * 0
    terms = {"reconstruction": squared_error * weight + shown}
    if spec.auxk_coefficient:
        rows_of = (found.residual_BO, x_BD)
        taken = auxk.taken(spec, ctx)
        terms["auxk"] = add_auxiliary(total, spec, params, rows_of, taken, _largest)
    return StepOutput(
        loss=torch.stack(list(terms.values())).sum(),
        terms=terms,
        grads=gradients_of(params, total, -2 * weight * found.residual_BO.sum(0)),
        state=state,
        stats=Stats(total.fired_F, squared_error),
    )


def _choose(k: int, params: Tensors, batch: Batch, ctx: Context) -> tuple[Tensor, Chosen]:
    """Centred rows, and the k largest pre-activations of each."""
    W_FD, b_F = params["W_enc"], params["b_enc"]
    x_BD, x_low = rows.centred(batch.x_BD, input_bias(params))
    if ctx.encoder_dtype == torch.float32:
        return x_BD, choice.top(torch.addmm(b_F, x_BD, W_FD.T), k)
    W_low, b_low_F = rows.shadow_of(W_FD), b_F.to(rows.LOW)
    h_BF = torch.addmm(b_low_F, x_low.low_FD, W_low.low_FD.T)
    errors_B = rows.largest_errors(x_low, W_low, b_F, b_low_F)
    return x_BD, choice.top_of_low(h_BF, errors_B, k, x_BD, (W_FD, b_F))


def _largest(h_RA: Tensor, n: int) -> Tensor:
    """ReLU of each row's n largest, zero elsewhere."""
    if n >= h_RA.shape[1]:
        return h_RA.relu_()
    found = choice.top(h_RA, n)
    # Added, for entries of value 0 may be at latents that were chosen.
    return torch.zeros_like(h_RA).scatter_add_(1, found.latents_BK.long(), found.values_BK)
