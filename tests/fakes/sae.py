"""Small random SAEs: evaluation forms, their reference function, and exported models."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from saeserve.core.architectures.contract import EvaluationForm
from saeserve.core.data.preprocess import Preprocessing
from saeserve.core.export.fold import fold
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import Lineage

Kind = Literal["topk", "threshold", "relu"]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def row_norms(W: Tensor) -> Tensor:
    return W.square().sum(dim=1).sqrt()


def random_preprocessing(d: int, seed: int) -> Preprocessing:
    return Preprocessing(mean_D=2 * torch.randn(d, generator=generator(seed)), scale=0.7)


def random_form(
    kind: Kind, d: int = 12, d_sae: int = 40, k: int = 5, seed: int = 0
) -> EvaluationForm:
    draws = generator(seed)
    W_dec_FO = torch.randn(d_sae, d, generator=draws)
    if kind == "topk":
        W_dec_FO = W_dec_FO / row_norms(W_dec_FO)[:, None]
    return EvaluationForm(
        W_enc_FD=torch.randn(d_sae, d, generator=draws),
        b_enc_F=torch.randn(d_sae, generator=draws),
        W_dec_FO=W_dec_FO,
        b_dec_O=torch.randn(d, generator=draws),
        threshold_F=2 * torch.rand(d_sae, generator=draws) if kind == "threshold" else None,
        k=k if kind == "topk" else None,
    )


def evaluate(form: EvaluationForm, x_BD: Tensor) -> Tensor:
    """Features [B, F] of preprocessed rows, as the contract states them; ties are not expected."""
    h_BF = x_BD @ form.W_enc_FD.to(x_BD).T + form.b_enc_F.to(x_BD)
    if form.threshold_F is not None:
        return h_BF * (h_BF > form.threshold_F.to(x_BD))
    if form.k is None:
        return h_BF.relu()
    values_BK, indices_BK = h_BF.topk(form.k, dim=1)
    return torch.zeros_like(h_BF).scatter(1, indices_BK, values_BK.relu())


def reconstruct(form: EvaluationForm, preprocessing: Preprocessing, x_BD: Tensor) -> Tensor:
    """Raw rows to raw reconstructions in float64, without folding anything."""
    mean_D = preprocessing.mean_D.double()
    f_BF = evaluate(form, preprocessing.scale * (x_BD.double() - mean_D))
    y_BO = f_BF @ form.W_dec_FO.double() + form.b_dec_O.double()
    return y_BO / preprocessing.scale + mean_D


def random_model(
    kind: Kind, d: int = 12, d_sae: int = 40, k: int = 5, seed: int = 0
) -> InferenceModel:
    form = random_form(kind, d, d_sae, k, seed)
    return fold(
        form,
        random_preprocessing(d, seed + 1),
        architecture="topk" if kind == "topk" else "jumprelu",
        source="resid_post.1",
        lineage=Lineage(dataset="planted", metrics={"fvu": 0.25}),
    )
