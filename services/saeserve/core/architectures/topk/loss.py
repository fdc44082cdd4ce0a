"""TopK with AuxK and Multi-TopK (Gao et al. 2024, arXiv 2406.04093, sections 2.3, 5.2 and A.1-2).

f = ReLU(TopK(W_enc (x - b_pre) + b_enc)), reconstruction = f W_dec + b_dec. Parameters: W_enc
[F, D], b_enc [F], W_dec [F, O] with unit rows, b_dec [O], which an autoencoder takes for b_pre (the
input of a transcoder has a b_pre [D] of its own: see `initialisation`). State: `variance`, mean
over the initial sample of |y - mean|^2, by which the squared error is divided.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.architectures import auxk
from saeserve.core.architectures.base import Architecture, form_of
from saeserve.core.architectures.contract import (
    Batch,
    Context,
    Dimensions,
    EvaluationForm,
    LossOutput,
    Recordable,
    Revival,
    Tensors,
)
from saeserve.core.architectures.initialisation import input_bias, selecting_start
from saeserve.core.architectures.topk.revival import above_largest
from saeserve.core.ops.selection import top_k
from saeserve.core.specs.architectures.topk import TopKSpec


class TopK(Architecture[TopKSpec]):
    """The TopK architecture; see the module's formulas."""

    def initialise(
        self, spec: TopKSpec, dims: Dimensions, sample_ND: Tensor, target_NO: Tensor, seed: int
    ) -> tuple[Tensors, Tensors]:
        """Start by `selecting_start`. Raises DataError for a sample without variance."""
        return selecting_start(spec, dims, sample_ND, target_NO, seed)

    def loss(
        self, spec: TopKSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> LossOutput:
        """Mean over rows of |y - y^|^2 over the sample's variance, and with coefficients > 0

        `multi_topk` = coefficient x the same with 4k latents, and `auxk` (see `auxk`).
        """
        W_dec, rows = params["W_dec"], len(batch.x_BD)
        h_BF = (batch.x_BD - input_bias(params)) @ params["W_enc"].T + params["b_enc"]
        f_BF = largest(h_BF, spec.k).relu()
        residual_BO = batch.target_BO - (f_BF @ W_dec + params["b_dec"])
        squared_error = residual_BO.square().sum()
        terms = {"reconstruction": squared_error / rows / state["variance"]}
        if spec.multi_topk_coefficient:
            wide_BF = largest(h_BF, min(4 * spec.k, h_BF.shape[1])).relu()
            wide_BO = batch.target_BO - (wide_BF @ W_dec + params["b_dec"])
            wide = wide_BO.square().sum() / rows / state["variance"]
            terms["multi_topk"] = spec.multi_topk_coefficient * wide
        terms |= auxk.dense_term(spec, h_BF, residual_BO, W_dec, ctx.dead_F, ctx.dead_bound)
        return LossOutput.of(terms, state, f_BF, squared_error)

    def recordable(self, spec: TopKSpec, ctx: Context) -> Recordable | None:
        """The step's number is not read."""
        return auxk.recordable(spec, ctx, {})

    def evaluation_form(self, spec: TopKSpec, params: Tensors, state: Tensors) -> EvaluationForm:
        """Per row already."""
        return form_of(spec, params, k=spec.k)

    def revived_norms(
        self, spec: TopKSpec, params: Tensors, state: Tensors, form: EvaluationForm, new: Revival
    ) -> Tensor:
        """Norms [N]: the usual one, or as much as is among the k largest on a latent's own row."""
        usual_N = super().revived_norms(spec, params, state, form, new)
        centred_ND, _ = self.centred(spec, params, new.rows)
        return above_largest(usual_N, form, spec.k, new.dead_F, new.rows.x_BD, centred_ND)


def largest(h_BF: Tensor, k: int) -> Tensor:
    """The k largest entries of each row; the others are 0."""
    chosen = top_k(h_BF, k)
    return torch.zeros_like(h_BF).scatter(1, chosen.indices_BK, chosen.values_BK)
