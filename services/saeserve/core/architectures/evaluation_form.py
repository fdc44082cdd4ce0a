"""The evaluation form applied to preprocessed rows, densely: for the trainer's own looks at it."""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.architectures.contract import EvaluationForm
from saeserve.core.ops.selection import top_k


def features_of(form: EvaluationForm, x_BD: Tensor) -> Tensor:
    """Features [B, F], as `EvaluationForm` says."""
    h_BF = torch.addmm(form.b_enc_F, x_BD, form.W_enc_FD.T)
    if form.threshold_F is not None:
        return torch.where(h_BF > form.threshold_F, h_BF, 0.0)
    if form.k is None:
        return h_BF.relu()
    selected = top_k(h_BF, form.k)
    return torch.zeros_like(h_BF).scatter(1, selected.indices_BK, selected.values_BK.relu())


def reconstruction_of(form: EvaluationForm, x_BD: Tensor, f_BF: Tensor) -> Tensor:
    """Reconstructions [B, O] of rows with these features."""
    y_BO = torch.addmm(form.b_dec_O, f_BF, form.W_dec_FO)
    return y_BO if form.W_skip_OD is None else y_BO + x_BD @ form.W_skip_OD.T
