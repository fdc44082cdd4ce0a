"""Training's products with active latents as one list of entries, rows of any length.

Shape suffixes: N entries, B rows (or other bags of entries), F latents, D width. An entry is
(bag, latent, value); a pair may occur twice, its values add up. Never an [N, D] temporary.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from saeserve.core.architectures.autograd import Saved, apply
from saeserve.core.kernels import gathers
from saeserve.core.kernels.compiled import array, usable
from saeserve.core.kernels.csr import Csr
from saeserve.core.kernels.sort import by_latent

DENSE_ABOVE = 1 / 16
"""Share of active latents above which one dense GEMM is faster than gathering in torch (CPU,
measured)."""
SUM = 0
"""The number of `embedding_bag`'s mode "sum"."""
COMPILED_GAIN = 2
"""That share is this many times higher where the gathering is compiled."""


def combine(values_N: Tensor, bags_N: Tensor, latents_N: Tensor, W_FD: Tensor, bags: int) -> Tensor:
    """The sum of value W[latent] over the entries of each bag: [bags, D], outside any graph.

    `bags_N` ascends.
    """
    if usable(values_N, W_FD):
        return _summed(values_N, latents_N, _offsets(bags_N, bags), W_FD)
    offsets_B = torch.searchsorted(bags_N, torch.arange(bags, device=bags_N.device))
    return functional.embedding_bag(
        latents_N, W_FD, offsets_B, per_sample_weights=values_N, mode="sum"
    )


def dots(y_BD: Tensor, bags_N: Tensor, latents_N: Tensor, W_FD: Tensor) -> Tensor:
    """<W[latent], y[bag]> of every entry: [N], outside any graph; `bags_N` ascends.

    In torch this is what autograd calls for the gradient of `combine` in its values, and it gathers
    row by row; called by itself, since going through autograd would gather for `combine` as well.
    """
    if usable(y_BD, W_FD):
        dots_N = y_BD.new_empty(latents_N.shape)
        offsets = _offsets(bags_N, y_BD.shape[0])
        gathers.dot_bags(
            array(y_BD), array(latents_N.contiguous()), array(offsets), array(W_FD), array(dots_N)
        )
        return dots_N
    return bag_dots(y_BD, bags_N, latents_N, W_FD)


def bag_dots(y_BD: Tensor, bags_N: Tensor, latents_N: Tensor, W_FD: Tensor) -> Tensor:
    """`dots` in torch, of bags in any order."""
    # Where bags begin is not asked for, since every entry says its bag.
    bags_N = bags_N.contiguous()
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        y_BD.detach(), W_FD.detach(), latents_N.contiguous(), bags_N, bags_N, SUM
    )


def sum_by_latent(
    values_N: Tensor, bags_N: Tensor, latents_N: Tensor, y_BD: Tensor, latents: int
) -> Tensor:
    """The sum of value y[bag] over the entries of each latent: [F, D], outside any graph.

    Sorted by latent, the entries are bags over y: gathered sums, in an order that is fixed. In
    place of scattering: a fifth of its time, and an eighth of a dense GEMM's (32 of 4096 latents).
    """
    compiled = usable(values_N, y_BD)
    sparse = DENSE_ABOVE * (COMPILED_GAIN if compiled else 1)
    if values_N.numel() > y_BD.shape[0] * latents * sparse:
        places_N = bags_N * latents + latents_N
        dense_BF = values_N.new_zeros(y_BD.shape[0], latents)
        dense_BF.view(-1).index_add_(0, places_N, values_N)
        return dense_BF.T @ y_BD
    if compiled:
        # Each entry is a row of its own, for bags may come in any order.
        numbers = torch.arange(values_N.numel() + 1)
        found = by_latent(Csr(numbers, latents_N.contiguous(), values_N), latents)
        return _summed(found.values, bags_N[found.rows], found.starts, y_BD)
    order_N = latents_N.argsort(stable=True)
    return combine(values_N[order_N], latents_N[order_N], bags_N[order_N], y_BD, latents)


def _offsets(bags_N: Tensor, bags: int) -> Tensor:
    """Where each bag's entries begin in the ascending `bags_N`, and where the last one's end."""
    return torch.searchsorted(bags_N, torch.arange(bags + 1, device=bags_N.device))


def _summed(values_N: Tensor, rows_N: Tensor, offsets: Tensor, W_FD: Tensor) -> Tensor:
    out_GD = W_FD.new_empty(offsets.numel() - 1, W_FD.shape[1])
    gathers.sum_rows(
        array(values_N), array(rows_N.contiguous()), array(offsets), array(W_FD), array(out_GD)
    )
    return out_GD


class _Bagged(Saved, Protocol):
    bags: int


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Bagged, values_N: Tensor, bags_N: Tensor, latents_N: Tensor, W_FD: Tensor, bags: int
    ) -> Tensor:
        ctx.save_for_backward(values_N, bags_N, latents_N, W_FD)
        return combine(values_N, bags_N, latents_N, W_FD, bags)

    @staticmethod
    def backward(ctx: _Bagged, *grads: Tensor) -> tuple[Tensor, None, None, Tensor, None]:
        values_N, bags_N, latents_N, W_FD = ctx.saved_tensors
        (grad_BD,) = grads
        with torch.no_grad():
            to_W_FD = sum_by_latent(values_N, bags_N, latents_N, grad_BD, W_FD.shape[0])
        return dots(grad_BD, bags_N, latents_N, W_FD), None, None, to_W_FD, None


class _ActiveValues(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Saved,
        values_N: Tensor,
        rows_N: Tensor,
        latents_N: Tensor,
        x_BD: Tensor,
        W_FD: Tensor,
        b_F: Tensor,  # noqa: ARG004 - autograd wants every input that has a gradient
        b_pre_D: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(rows_N, latents_N, x_BD, W_FD, b_pre_D)
        return values_N.clone()

    @staticmethod
    def backward(
        ctx: Saved, *grads: Tensor
    ) -> tuple[None, None, None, None, Tensor, Tensor, Tensor]:
        (grad_N,) = grads
        rows_N, latents_N, x_BD, W_FD, b_pre_D = ctx.saved_tensors
        with torch.no_grad():
            to_W_FD = sum_by_latent(grad_N, rows_N, latents_N, x_BD - b_pre_D, W_FD.shape[0])
            to_b_F = grad_N.new_zeros(W_FD.shape[0]).index_add_(0, latents_N, grad_N)
            # Summed over the batch before the product: one mat-vec instead of a GEMM.
            to_b_pre_D = -(to_b_F @ W_FD)
        return None, None, None, None, to_W_FD, to_b_F, to_b_pre_D


def decode(values_N: Tensor, bags_N: Tensor, latents_N: Tensor, W_FD: Tensor, bags: int) -> Tensor:
    """`combine` with gradients in `values_N` and `W_FD`: [bags, D]."""
    return apply(_Decode, values_N, bags_N, latents_N, W_FD, bags)


def active_values(
    values_N: Tensor,
    rows_N: Tensor,
    latents_N: Tensor,
    x_BD: Tensor,
    W_FD: Tensor,
    b_F: Tensor,
    b_pre_D: Tensor,
) -> Tensor:
    """Known pre-activations <W_i, x - b_pre> + b_i of the entries, put into the graph: [N].

    `values_N` are their values, computed outside it; gradients flow to W, b and b_pre. Entries
    may come in any order.
    """
    return apply(_ActiveValues, values_N, rows_N, latents_N, x_BD, W_FD, b_F, b_pre_D)
