"""Training's products with k active latents a row, and their derivatives: entries in a rectangle.

Shape suffixes: B rows, K active latents of a row, F latents, D width. An index may occur
twice in a row: its values add up. `active.entries` has the same for rows of any length.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from saeserve.core.architectures.active import entries
from saeserve.core.architectures.autograd import Saved, apply


def combine_rows(values_BK: Tensor, indices_BK: Tensor, W_FD: Tensor) -> Tensor:
    """sum_k values[b, k] W[indices[b, k]]: [B, D], outside any graph."""
    return functional.embedding_bag(indices_BK, W_FD, per_sample_weights=values_BK, mode="sum")


def row_dots(x_BD: Tensor, indices_BK: Tensor, W_FD: Tensor) -> Tensor:
    """<W[indices[b, k]], x[b]>: [B, K], outside any graph; see `entries.dots`."""
    dots_N = entries.bag_dots(x_BD, rows_of(indices_BK), indices_BK.flatten(), W_FD)
    return dots_N.view_as(indices_BK)


def rows_of(indices_BK: Tensor) -> Tensor:
    """The row of every index, flat: int64 [B K]."""
    rows, active = indices_BK.shape
    return torch.arange(rows, device=indices_BK.device).repeat_interleave(
        active, output_size=rows * active
    )


def scatter_outer(values_BK: Tensor, indices_BK: Tensor, x_BD: Tensor, latents: int) -> Tensor:
    """sum_b values[b, k] x[b] added to row indices[b, k]: [F, D], outside any graph."""
    rows_N = rows_of(indices_BK)
    return entries.sum_by_latent(values_BK.flatten(), rows_N, indices_BK.flatten(), x_BD, latents)


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Saved, values_BK: Tensor, indices_BK: Tensor, W_FD: Tensor) -> Tensor:
        ctx.save_for_backward(values_BK, indices_BK, W_FD)
        return combine_rows(values_BK, indices_BK, W_FD)

    @staticmethod
    def backward(ctx: Saved, *grads: Tensor) -> tuple[Tensor, None, Tensor]:
        values_BK, indices_BK, W_FD = ctx.saved_tensors
        (grad_BD,) = grads
        with torch.no_grad():
            to_W_FD = scatter_outer(values_BK, indices_BK, grad_BD, W_FD.shape[0])
        return row_dots(grad_BD, indices_BK, W_FD), None, to_W_FD


def decode(values_BK: Tensor, indices_BK: Tensor, W_FD: Tensor) -> Tensor:
    """`combine_rows` with gradients in `values_BK` and `W_FD`: [B, D]."""
    return apply(_Decode, values_BK, indices_BK, W_FD)


def active_values(
    values_BK: Tensor, indices_BK: Tensor, x_BD: Tensor, W_FD: Tensor, b_F: Tensor, b_pre_D: Tensor
) -> Tensor:
    """Known pre-activations <W_i, x - b_pre> + b_i at the given indices, put into the graph.

    `values_BK` are their values, computed outside it; gradients flow to W, b and b_pre.
    """
    rows_N, latents_N = rows_of(indices_BK), indices_BK.flatten()
    values_N = values_BK.flatten()
    live_N = entries.active_values(values_N, rows_N, latents_N, x_BD, W_FD, b_F, b_pre_D)
    return live_N.view_as(values_BK)
