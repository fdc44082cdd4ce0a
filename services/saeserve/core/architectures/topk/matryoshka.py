"""Matryoshka SAE on BatchTopK (Bussmann et al. 2025, arXiv 2503.17547).

f is BatchTopK's. With widths m_1 < ... < m_G = d_sae, prefix g reconstructs from latents below m_g
alone: y_g = b_dec + sum_{i < m_g} f_i W_dec,i. The loss is the mean over prefixes of |y - y_g|^2
over the sample's variance, plus AuxK on the residual of the whole. With `detach_inner` the inner
prefixes 1 < g < G see the sum of the prefixes before them detached, so that each trains the latents
that it adds; the whole, g = G, trains every latent. Parameters, state and form are BatchTopK's;
with `sort_by_frequency` see `frequency` too.
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import torch

from saeserve.core.architectures import auxk
from saeserve.core.architectures.contract import Batch, Context, LossOutput, Tensors
from saeserve.core.architectures.initialisation import input_bias
from saeserve.core.architectures.topk.batchtopk import kept
from saeserve.core.architectures.topk.frequency import Sorting
from saeserve.core.specs.architectures.matryoshka import MatryoshkaSpec


class Matryoshka(Sorting):
    """The Matryoshka architecture; see the module's formulas."""

    def loss(
        self, spec: MatryoshkaSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> LossOutput:
        """`reconstruction`, the mean over prefixes, and `auxk`; the state has a new threshold."""
        W_dec, widths = params["W_dec"], spec.resolved_widths
        h_BF = (batch.x_BD - input_bias(params)) @ params["W_enc"].T + params["b_enc"]
        f_BF, level = kept(h_BF, ctx.scheduled.get("k", spec.k))
        residual_BO, errors = batch.target_BO, list[torch.Tensor]()
        for low, high in pairwise((0, *widths)):
            before_BO = f_BF[:, :low] @ W_dec[:low] + params["b_dec"]
            if spec.detach_inner and low > 0 and high < widths[-1]:
                before_BO = before_BO.detach()
            residual_BO = batch.target_BO - (before_BO + f_BF[:, low:high] @ W_dec[low:high])
            errors.append(residual_BO.square().sum())
        terms = {"reconstruction": torch.stack(errors).mean() / len(h_BF) / state["variance"]}
        terms |= auxk.dense_term(spec, h_BF, residual_BO, W_dec, ctx.dead_F, ctx.dead_bound)
        output = LossOutput.of(terms, state, f_BF, errors[-1])
        carried = self.carried(spec, state, level, output.stats, batch, ctx)
        return dataclasses.replace(output, state=carried)
