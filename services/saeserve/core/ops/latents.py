"""Training's products with k active latents a row, and their derivatives.

Never a [B, k, d] temporary, never a dense GEMM for a few latents (one scatter a weight gradient).
Shape suffixes: B rows, K active latents of a row, F latents, D width. An index may stand twice in
a row: its values add up.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional

ENTRIES_A_BLOCK = 2048
"""Products held at once while scattering: a few megabytes, so that they stay in cache."""
DENSE_ABOVE = 1 / 128
"""Share of active latents above which one dense GEMM is faster than scattering (CPU, measured)."""


def combine_rows(values_BK: Tensor, indices_BK: Tensor, W_FD: Tensor) -> Tensor:
    """sum_k values[b, k] W[indices[b, k]]: [B, D], outside any graph."""
    return functional.embedding_bag(indices_BK, W_FD, per_sample_weights=values_BK, mode="sum")


def row_dots(x_BD: Tensor, indices_BK: Tensor, W_FD: Tensor) -> Tensor:
    """<W[indices[b, k]], x[b]>: [B, K], outside any graph.

    This is the gradient of `combine_rows` in its values, whose kernel gathers row by row.
    """
    with torch.enable_grad():
        zero_BK = x_BD.new_zeros(indices_BK.shape, requires_grad=True)
        combined_BD = combine_rows(zero_BK, indices_BK, W_FD.detach())
        (dots_BK,) = torch.autograd.grad(combined_BD, zero_BK, x_BD.detach())
    return dots_BK


def scatter_outer(values_BK: Tensor, indices_BK: Tensor, x_BD: Tensor, latents: int) -> Tensor:
    """sum_b values[b, k] x[b] added to row indices[b, k]: [F, D], outside any graph."""
    rows, active = indices_BK.shape
    if active > latents * DENSE_ABOVE:
        dense_BF = values_BK.new_zeros(rows, latents).scatter_add_(1, indices_BK, values_BK)
        return dense_BF.T @ x_BD
    total_FD = x_BD.new_zeros(latents, x_BD.shape[1])
    block = max(1, ENTRIES_A_BLOCK // active)
    for start in range(0, rows, block):
        part = slice(start, start + block)
        products = values_BK[part].unsqueeze(2) * x_BD[part].unsqueeze(1)
        total_FD.index_add_(0, indices_BK[part].flatten(), products.flatten(0, 1))
    return total_FD


class _Saved(Protocol):
    """What torch keeps between forward and backward."""

    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Saved, values_BK: Tensor, indices_BK: Tensor, W_FD: Tensor) -> Tensor:
        ctx.save_for_backward(values_BK, indices_BK, W_FD)
        return combine_rows(values_BK, indices_BK, W_FD)

    @staticmethod
    def backward(ctx: _Saved, *grad_outputs: Tensor) -> tuple[Tensor, None, Tensor]:
        values_BK, indices_BK, W_FD = ctx.saved_tensors
        (grad_BD,) = grad_outputs
        with torch.no_grad():
            grad_W_FD = scatter_outer(values_BK, indices_BK, grad_BD, W_FD.shape[0])
        return row_dots(grad_BD, indices_BK, W_FD), None, grad_W_FD


class _ActiveValues(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Saved,
        values_BK: Tensor,
        indices_BK: Tensor,
        x_BD: Tensor,
        W_FD: Tensor,
        b_F: Tensor,  # noqa: ARG004 - autograd wants every input that has a gradient
        b_pre_D: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(indices_BK, x_BD, W_FD, b_pre_D)
        return values_BK.clone()

    @staticmethod
    def backward(
        ctx: _Saved, *grad_outputs: Tensor
    ) -> tuple[None, None, None, Tensor, Tensor, Tensor]:
        (grad_BK,) = grad_outputs
        indices_BK, x_BD, W_FD, b_pre_D = ctx.saved_tensors
        with torch.no_grad():
            grad_W_FD = scatter_outer(grad_BK, indices_BK, x_BD - b_pre_D, W_FD.shape[0])
            grad_b_F = grad_BK.new_zeros(W_FD.shape[0])
            grad_b_F.index_add_(0, indices_BK.flatten(), grad_BK.flatten())
            # Summed over the batch before the product: one mat-vec instead of a GEMM.
            grad_b_pre_D = -(grad_b_F @ W_FD)
        return None, None, None, grad_W_FD, grad_b_F, grad_b_pre_D


def decode(values_BK: Tensor, indices_BK: Tensor, W_FD: Tensor) -> Tensor:
    """`combine_rows` with gradients in `values_BK` and `W_FD`: [B, D]."""
    return _apply(_Decode, values_BK, indices_BK, W_FD)


def active_values(
    values_BK: Tensor, indices_BK: Tensor, x_BD: Tensor, W_FD: Tensor, b_F: Tensor, b_pre_D: Tensor
) -> Tensor:
    """Known pre-activations <W_i, x - b_pre> + b_i at the given indices, put into the graph.

    `values_BK` are their values, computed outside it; gradients flow to W, b and b_pre.
    """
    return _apply(_ActiveValues, values_BK, indices_BK, x_BD, W_FD, b_F, b_pre_D)


def _apply(function: type[torch.autograd.Function], *arguments: Tensor) -> Tensor:
    # torch leaves `apply` untyped.
    return cast(Tensor, function.apply(*arguments))  # pyright: ignore[reportUnknownMemberType]
