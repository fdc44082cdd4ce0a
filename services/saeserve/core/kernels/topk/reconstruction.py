"""Reconstructions of all prefixes, their errors, and the gradient at the active values.

One pass a row over its gathered decoder rows. With weights w_g the loss is
sum_g w_g |y - y_g|^2, where y_g = b_dec + sum of f_i W_dec,i over the first g groups; the gradient
at a value of group g is <W_dec,i, r_g> with r_g = -2 sum_{g' >= g} w_g' (y - y_g'). Where inner
prefixes see those before them detached, it is -2 (w_g (y - y_g) + w_G (y - y_G)), once for g = G.
Shape suffixes: B rows, G groups, O d_out, N entries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from saeserve.core.kernels import gathers
from saeserve.core.kernels.compiled import SHARES, Array, array, helper, kernel, prange
from saeserve.core.kernels.lanes import dot
from saeserve.core.kernels.topk.entries import Entries


@dataclass(frozen=True)
class Reconstructed:
    """What the pass finds."""

    gradients_NO: Tensor
    """r_g of row b at place b G + g."""
    deltas_N: Tensor
    """The loss's gradient at every entry's value."""
    squares_G: Tensor
    """float64: the sum over rows of |y - y_g|^2."""
    residual_BO: Tensor
    """y - y_g of the prefix that was asked for; empty where none was."""

    def to_bias(self, rows: int) -> Tensor:
        """The gradient of b_dec as far as it is added to the reconstruction: the first group's."""
        return self.gradients_NO.view(rows, -1, self.gradients_NO.shape[1])[:, 0].sum(0)


def reconstruct(
    entries: Entries,
    target_BO: Tensor,
    b_O: Tensor,
    W_FO: Tensor,
    weights: tuple[float, ...],
    *,
    detach_inner: bool = False,
    residual_of: int | None = None,
) -> Reconstructed:
    """Run the pass; `residual_of` names the prefix (from 0) whose residuals are wanted."""
    rows, groups = target_BO.shape[0], entries.groups
    found = Reconstructed(
        gradients_NO=W_FO.new_empty(rows * groups, W_FO.shape[1]),
        deltas_N=torch.empty_like(entries.values),
        squares_G=torch.empty(rows, groups, dtype=torch.float64),
        residual_BO=target_BO.new_empty(0 if residual_of is None else rows, W_FO.shape[1]),
    )
    scales_G = W_FO.new_tensor([-2 * weight for weight in weights])
    _pass(
        *(array(entries.values), array(entries.latents), array(entries.edges_BE)),
        *(array(target_BO), array(b_O), array(W_FO), array(scales_G), detach_inner),
        *(array(found.gradients_NO), array(found.deltas_N), array(found.squares_G)),
        *(array(found.residual_BO), -1 if residual_of is None else residual_of),
    )
    return replace(found, squares_G=found.squares_G.sum(0))


@helper
def _residual(target_O: Array, y_O: Array, out_O: Array, scale: float) -> float:
    """out = scale (target - y); returns |target - y|^2."""
    # Scaled after its square was taken, so that scales do not round it.
    for o in range(out_O.shape[0]):
        out_O[o] = target_O[o] - y_O[o]
    square = dot(out_O, out_O)
    for o in range(out_O.shape[0]):
        out_O[o] *= scale
    return square


@helper
def _gather_up(gradients_NO: Array, first: int, groups: int, detach: bool) -> None:
    """From each prefix's own share to what its group's values see."""
    last = first + groups - 1
    # From the last group down, so that g + 1 holds its sum already.
    for g in range(last - 1, first - 1, -1):
        source = last if detach else g + 1
        for o in range(gradients_NO.shape[1]):
            gradients_NO[g, o] += gradients_NO[source, o]


@kernel
def _pass(
    values_N: Array,
    latents_N: Array,
    edges_BE: Array,
    target_BO: Array,
    b_O: Array,
    W_FO: Array,
    scales_G: Array,
    detach: bool,
    gradients_NO: Array,
    deltas_N: Array,
    squares_BG: Array,
    residual_BO: Array,
    residual_of: int,
) -> None:
    """squares[b, g] = |y - y_g|^2, gradients = r_g, deltas[n] = <W[latent], r_g>: see above."""
    rows, groups = squares_BG.shape
    for share in prange(SHARES):
        y_O = np.empty(W_FO.shape[1], W_FO.dtype)
        # Each row's reconstruction grows group by group; then its values see what is left of it.
        for row in range(rows * share // SHARES, rows * (share + 1) // SHARES):
            y_O[:] = b_O
            first = row * groups
            for g in range(groups):
                start, stop = edges_BE[row, g], edges_BE[row, g + 1]
                gathers.add_rows(y_O, values_N, latents_N, start, stop, W_FO)
                squares_BG[row, g] = _residual(
                    target_BO[row], y_O, gradients_NO[first + g], scales_G[g]
                )
                if g == residual_of:
                    residual_BO[row, :] = target_BO[row] - y_O
            _gather_up(gradients_NO, first, groups, detach)
            for g in range(groups):
                start, stop = edges_BE[row, g], edges_BE[row, g + 1]
                gathers.dot_rows(deltas_N, gradients_NO[first + g], latents_N, start, stop, W_FO)
