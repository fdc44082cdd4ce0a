"""BatchTopK (Bussmann, Leask, Nanda 2024, arXiv 2412.06410) with AuxK.

h = W_enc (x - b_pre) + b_enc; f keeps the k B largest positive ones of a micro-batch's B x F
entries h; reconstruction = f W_dec + b_dec. Parameters as TopK's: W_enc [F, D], b_enc [F], W_dec
[F, O] with unit rows, b_dec [O] (and b_pre [D] for a transcoder). State: see `threshold`.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from saeserve.core.architectures import auxk
from saeserve.core.architectures.contract import Batch, Context, LossOutput, Tensors
from saeserve.core.architectures.initialisation import input_bias
from saeserve.core.architectures.topk.threshold import ByBatch
from saeserve.core.specs.architectures.batchtopk import BatchTopKSpec


class BatchTopK(ByBatch[BatchTopKSpec]):
    """The BatchTopK architecture; see the module's formulas."""

    def loss(
        self, spec: BatchTopKSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> LossOutput:
        """Mean over rows of |y - y^|^2 over the sample's variance, and `auxk` (see `auxk`); the
        state has a new threshold."""
        h_BF = (batch.x_BD - input_bias(params)) @ params["W_enc"].T + params["b_enc"]
        f_BF, level = kept(h_BF, ctx.scheduled.get("k", spec.k))
        residual_BO = batch.target_BO - (f_BF @ params["W_dec"] + params["b_dec"])
        squared_error = residual_BO.square().sum()
        terms = {"reconstruction": squared_error / len(h_BF) / state["variance"]}
        terms |= auxk.dense_term(
            spec, h_BF, residual_BO, params["W_dec"], ctx.dead_F, ctx.dead_bound
        )
        output = LossOutput.of(terms, state, f_BF, squared_error)
        carried = self.carried(spec, state, level, output.stats, batch, ctx)
        return dataclasses.replace(output, state=carried)


def kept(h_BF: Tensor, k: float) -> tuple[Tensor, Tensor]:
    """The k B largest positive entries of the whole batch, the others 0; of equals the first.

    And the level half-way between the smallest kept and the largest left, neither below 0.
    """
    n = min(h_BF.numel(), max(1, round(k * h_BF.shape[0])))
    sorted_M, order_M = h_BF.detach().flatten().sort(descending=True, stable=True)
    chosen_M = torch.zeros_like(order_M, dtype=torch.bool).index_fill(0, order_M[:n], value=True)
    smallest, largest_left = sorted_M[n - 1 : n].relu(), sorted_M[n : n + 1].relu()
    level = (smallest.sum() + largest_left.sum()) / 2
    return torch.where(chosen_M.view_as(h_BF), h_BF.relu(), 0.0), level
