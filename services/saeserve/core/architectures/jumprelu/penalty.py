"""JumpReLU's sparsity penalty as a function of how often latents fire; see `loss`."""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.architectures import penalty
from saeserve.core.architectures.contract import Context
from saeserve.core.ops.norms import SMALLEST_NORM
from saeserve.core.specs.architectures.jumprelu import JumpReluSpec


def sparsity(spec: JumpReluSpec, ctx: Context, p_F: Tensor) -> Tensor:
    """The penalty of the text of `loss`, from the latents' mean firing p."""
    total = measure = p_F.sum()
    if spec.frequency_scale is not None:
        measure = total + p_F.square().sum() / spec.frequency_scale
    if ctx.control is None and spec.penalty != "quadratic":
        return penalty.ramped(ctx, measure)
    # In units of L0, so that the goal keeps its meaning where frequent latents weigh more.
    l0 = measure * (total / measure.clamp_min(SMALLEST_NORM)).detach()
    return spec.sparsity_coefficient * (l0 / penalty.goal(ctx) - 1).square()


def price(spec: JumpReluSpec, ctx: Context, p_F: Tensor) -> tuple[Tensor, Tensor]:
    """The penalty and its gradient by p [F], outside any graph."""
    leaf_F = p_F.detach().requires_grad_()
    with torch.enable_grad():
        value = sparsity(spec, ctx, leaf_F)
    (gradient_F,) = torch.autograd.grad(value, leaf_F)
    return value.detach(), gradient_F
