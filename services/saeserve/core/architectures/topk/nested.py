"""The loss of BatchTopK and of Matryoshka, which is BatchTopK with several prefixes.

h = W_enc (x - b_pre) + b_enc. Of a micro-batch's B x F pre-activations the k B largest positive
ones are kept: f. With widths m_1 < ... < m_G = d_sae, prefix g reconstructs from latents below
m_g alone: y_g = b_dec + sum_{i < m_g} f_i W_dec,i. The loss is the mean over prefixes (divided by
G once) of |y - y_g|^2 over the sample's variance, plus AuxK on the residual of the whole.
All prefixes share one selection and one decode, whose partial sums are added up.

With `detach_inner` the inner prefixes g < G see the sum of the prefixes before them detached, so
that each trains the latents that it adds; the whole, g = G, trains every latent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.architectures import auxk
from saeserve.core.architectures.active import entries
from saeserve.core.architectures.active.latents import decode, rows_of
from saeserve.core.architectures.active.preactivations import PreActivations
from saeserve.core.architectures.contract import Batch, Context, LossOutput, Stats, Tensors
from saeserve.core.architectures.initialisation import input_bias
from saeserve.core.specs.architectures.batchtopk import BatchTopKSpec


@dataclass(frozen=True)
class Prefixes:
    """Widths of the prefixes, the last of them d_sae, and what their gradients reach."""

    widths: tuple[int, ...]
    detach_inner: bool = False


@dataclass(frozen=True)
class _Rectangle:
    """AuxK's choice: pre-activations in the graph [B, K], before ReLU, and their latents."""

    values_BK: Tensor
    indices_BK: Tensor


@dataclass(frozen=True)
class _Active:
    """Kept pre-activations in the graph, before ReLU, ascending by row and latent."""

    values_N: Tensor
    rows_N: Tensor
    latents_N: Tensor
    level: Tensor
    auxiliary: _Rectangle | None


def nested_loss(
    spec: BatchTopKSpec,
    prefixes: Prefixes,
    params: Tensors,
    state: Tensors,
    batch: Batch,
    ctx: Context,
) -> tuple[LossOutput, Tensor]:
    """The loss, its state as it came; and the level that parts kept entries from the others."""
    target_BO, W_dec = batch.target_BO, params["W_dec"]
    active = _activate(spec, params, batch, ctx)
    residuals = [target_BO - y_BO for y_BO in _reconstructions(prefixes, active, params, target_BO)]
    errors = [residual_BO.square().sum() for residual_BO in residuals]
    mean_error = torch.stack(errors).mean() / target_BO.shape[0]
    terms = {"reconstruction": mean_error / state["variance"]}
    if spec.auxk_coefficient:
        share = _auxk(residuals[-1].detach(), active.auxiliary, W_dec)
        terms["auxk"] = spec.auxk_coefficient * share
    stats = Stats(_fired(active, W_dec.shape[0]), errors[-1].detach())
    output = LossOutput(torch.stack(list(terms.values())).sum(), terms, state, stats)
    return output, active.level


def _activate(spec: BatchTopKSpec, params: Tensors, batch: Batch, ctx: Context) -> _Active:
    """The micro-batch's k B largest, and each row's k_aux largest among dead latents.

    Both enter the graph together, so that the encoder's gradient is one gathered sum.
    """
    W_enc, b_enc, b_pre = params["W_enc"], params["b_enc"], input_bias(params)
    centred_BD = batch.x_BD - b_pre.detach()
    h = PreActivations.compute(centred_BD, W_enc, b_enc, ctx.encoder_dtype)
    k = ctx.scheduled.get("k", spec.k)
    top = h.top_of_batch(max(1, round(k * centred_BD.shape[0])))
    values_N, rows_N, latents_N = top.values_N, top.rows_N, top.latents_N
    kept, dead_BK = values_N.numel(), None
    if spec.auxk_coefficient and (n_aux := auxk.width(spec, ctx.dead_F)):
        auxiliary_BK, dead_BK = h.top(n_aux, among_F=ctx.dead_F)
        values_N = torch.cat([values_N, auxiliary_BK.flatten()])
        rows_N = torch.cat([rows_N, rows_of(dead_BK)])
        latents_N = torch.cat([latents_N, dead_BK.flatten()])
    live_N = entries.active_values(values_N, rows_N, latents_N, batch.x_BD, W_enc, b_enc, b_pre)
    auxiliary = None if dead_BK is None else _Rectangle(live_N[kept:].view_as(dead_BK), dead_BK)
    return _Active(live_N[:kept], rows_N[:kept], latents_N[:kept], top.level, auxiliary)


def _reconstructions(
    prefixes: Prefixes, active: _Active, params: Tensors, like_BO: Tensor
) -> list[Tensor]:
    """y_1 ... y_G: one decode into a bag for each row and group of added latents, then sums."""
    parts = _parts(prefixes.widths, active, params["W_dec"], like_BO.shape[0])
    whole_BO, found = params["b_dec"].expand_as(like_BO), list[Tensor]()
    inner_BO = whole_BO
    for part_BO in parts[:-1]:
        inner_BO = (inner_BO.detach() if prefixes.detach_inner and found else inner_BO) + part_BO
        found.append(inner_BO)
    return [*found, whole_BO + torch.stack(parts).sum(0)]


def _parts(
    widths: tuple[int, ...], active: _Active, W_dec_FO: Tensor, rows: int
) -> tuple[Tensor, ...]:
    """What the latents of each group [m_g-1, m_g) add: G tensors [B, O]."""
    groups = len(widths)
    bounds = torch.tensor(widths[:-1], device=active.latents_N.device, dtype=torch.int64)
    # Latents of a row ascend and groups are ranges of latents, so bags ascend as well.
    bags_N = active.rows_N * groups + torch.bucketize(active.latents_N, bounds, right=True)
    parts = entries.decode(
        active.values_N.relu(), bags_N, active.latents_N, W_dec_FO, rows * groups
    )
    return parts.view(rows, groups, -1).unbind(1)


def _auxk(residual_BO: Tensor, auxiliary: _Rectangle | None, W_dec_FO: Tensor) -> Tensor:
    if auxiliary is None:
        return residual_BO.new_zeros(())
    auxiliary_BO = decode(auxiliary.values_BK.relu(), auxiliary.indices_BK, W_dec_FO)
    return auxk.error_share(residual_BO, auxiliary_BO)


def _fired(active: _Active, latents: int) -> Tensor:
    counts_F = torch.zeros(latents, dtype=torch.int64, device=active.latents_N.device)
    return counts_F.index_add_(0, active.latents_N, (active.values_N.detach() > 0).long())
