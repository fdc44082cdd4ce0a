"""What the steps of dense architectures on a GPU make of their products: the dictionaries'
gradients.

The gradient of sum_i a_i |W_i| by W_i is a_i / |W_i| W_i, 0 for a row of zeros. It takes part in
the pass that scales a product back, but for crosscoders, whose rows have a norm for each source.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saeserve.core.gpu_dense.rows import Operand, product
from saeserve.core.gpu_dense.weights import finished_
from saeserve.core.ops.norms import SMALLEST_SQUARE, source_norms, times_norm_gradient


def norms_of(W: Operand, widths: Sequence[int]) -> Tensor:
    """`source_norms`, which the copy in float16 knows where there is one source."""
    return source_norms(W.rows_XD, widths) if W.exact or len(widths) > 1 else W.norm_X


def decoder_gradient(
    coefficients_BF: Tensor,
    low_BO: Tensor,
    undo: Tensor,
    to_norm_F: Tensor | None,
    W: Operand,
    widths: Sequence[int],
) -> Tensor:
    """Coefficients times rows times `undo`, and `to_norm_F` times the derivative of the norms."""
    made_FO = product(coefficients_BF.T, low_BO)
    if to_norm_F is None:
        return made_FO.mul_(undo)
    if len(widths) > 1:
        return made_FO.mul_(undo).add_(times_norm_gradient(to_norm_F, W.rows_XD, widths))
    norms_F = norms_of(W, widths)
    known_F = norms_F > SMALLEST_SQUARE**0.5
    return finished_(made_FO, undo, torch.where(known_F, to_norm_F / norms_F, 0.0), W.rows_XD)


def encoder_gradient(
    coefficients_BF: Tensor, low_BD: Tensor, undo_F: Tensor, shared: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Coefficients times rows times `undo_F`, and the outer product of `shared` [F] and [D]."""
    made_FD = product(coefficients_BF.T, low_BD)
    return made_FD.mul_(undo_F[:, None]) if shared is None else finished_(made_FD, undo_F, *shared)
