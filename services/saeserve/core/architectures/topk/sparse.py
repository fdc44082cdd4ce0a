"""The TopK family's losses with one dense product: forms of `loss` that autograd differentiates.

Devices without compiled kernels take their gradients from these.
Pre-activations are computed outside the graph, block by block where it pays; the chosen entries
alone enter it, and all prefixes of Matryoshka share one selection and one decode, whose partial
sums are added up. Tests hold these forms equal to `loss`, `batchtopk` and `matryoshka`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.architectures import auxk
from saeserve.core.architectures.active import entries
from saeserve.core.architectures.active.latents import active_values, decode, rows_of
from saeserve.core.architectures.active.preactivations import PreActivations
from saeserve.core.architectures.contract import Batch, Context, LossOutput, Stats, Tensors
from saeserve.core.architectures.initialisation import input_bias
from saeserve.core.specs.architectures.batchtopk import BatchTopKSpec
from saeserve.core.specs.architectures.matryoshka import MatryoshkaSpec
from saeserve.core.specs.architectures.topk import TopKSpec


@dataclass(frozen=True)
class Prefixes:
    """Widths of the prefixes, the last of them d_sae, and what their gradients reach."""

    widths: tuple[int, ...]
    detach_inner: bool = False

    @classmethod
    def of(cls, spec: BatchTopKSpec, d_sae: int) -> Prefixes:
        """Matryoshka's, or the one of BatchTopK. Of a resolved spec."""
        if isinstance(spec, MatryoshkaSpec):
            return cls(spec.resolved_widths, spec.detach_inner)
        return cls((d_sae,))


@dataclass(frozen=True)
class _Choice:
    """Latents that each row may use: values in the graph [B, n], before ReLU, and indices."""

    values_BK: Tensor
    indices_BK: Tensor

    def first(self, n: int) -> _Choice:
        return _Choice(self.values_BK[:, :n], self.indices_BK[:, :n])

    def decode(self, W_dec_FO: Tensor) -> Tensor:
        return decode(self.values_BK.relu(), self.indices_BK, W_dec_FO)


@dataclass(frozen=True)
class _Active:
    """Kept pre-activations in the graph, before ReLU, ascending by row and latent."""

    values_N: Tensor
    rows_N: Tensor
    latents_N: Tensor
    level: Tensor
    auxiliary: _Choice | None


def topk_loss(
    spec: TopKSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
) -> LossOutput:
    """`TopK.loss` with one dense product; AuxK's residual is detached."""
    chosen, auxiliary = _choose(spec, params, batch, ctx)
    b_dec, W_dec = params["b_dec"], params["W_dec"]
    main = chosen.first(spec.k)
    residual_BO = batch.target_BO - (main.decode(W_dec) + b_dec)
    squared_error = residual_BO.square().sum()
    rows = residual_BO.shape[0]
    terms = {"reconstruction": squared_error / rows / state["variance"]}
    if spec.multi_topk_coefficient:
        wide_BO = batch.target_BO - (chosen.decode(W_dec) + b_dec)
        wide = wide_BO.square().sum() / rows / state["variance"]
        terms["multi_topk"] = spec.multi_topk_coefficient * wide
    if spec.auxk_coefficient:
        share = _auxk(residual_BO.detach(), auxiliary, W_dec, ctx)
        terms["auxk"] = spec.auxk_coefficient * share
    active_BK = (main.values_BK.detach() > 0).long()
    stats = Stats(_counts(main.indices_BK, active_BK, W_dec.shape[0]), squared_error.detach())
    return LossOutput(torch.stack(list(terms.values())).sum(), terms, state, stats)


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
        share = _auxk(residuals[-1].detach(), active.auxiliary, W_dec, ctx)
        terms["auxk"] = spec.auxk_coefficient * share
    active_N = (active.values_N.detach() > 0).long()
    stats = Stats(_counts(active.latents_N, active_N, W_dec.shape[0]), errors[-1].detach())
    output = LossOutput(torch.stack(list(terms.values())).sum(), terms, state, stats)
    return output, active.level


def _choose(
    spec: TopKSpec, params: Tensors, batch: Batch, ctx: Context
) -> tuple[_Choice, _Choice | None]:
    """The row's top k (4k for Multi-TopK), and its top k_aux among dead latents if any are dead.

    Both enter the graph together, so that the encoder's gradient is one scatter.
    """
    W_enc, b_enc, b_pre = params["W_enc"], params["b_enc"], input_bias(params)
    centred_BD = batch.x_BD - b_pre.detach()
    h = PreActivations.compute(centred_BD, W_enc, b_enc, ctx.encoder_dtype)
    wanted = spec.k * (4 if spec.multi_topk_coefficient else 1)
    picks = [h.top(min(wanted, W_enc.shape[0]))]
    if n_aux := _auxiliary_width(spec, ctx):
        picks.append(h.top(n_aux, among_F=ctx.dead_F))
    values_BK = torch.cat([values for values, _ in picks], dim=1)
    indices_BK = torch.cat([indices for _, indices in picks], dim=1)
    live_BK = active_values(values_BK, indices_BK, batch.x_BD, W_enc, b_enc, b_pre)
    width = picks[0][1].shape[1]
    chosen = _Choice(live_BK[:, :width], indices_BK[:, :width])
    if len(picks) == 1:
        return chosen, None
    return chosen, _Choice(live_BK[:, width:], indices_BK[:, width:])


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
    if n_aux := _auxiliary_width(spec, ctx):
        auxiliary_BK, dead_BK = h.top(n_aux, among_F=ctx.dead_F)
        values_N = torch.cat([values_N, auxiliary_BK.flatten()])
        rows_N = torch.cat([rows_N, rows_of(dead_BK)])
        latents_N = torch.cat([latents_N, dead_BK.flatten()])
    live_N = entries.active_values(values_N, rows_N, latents_N, batch.x_BD, W_enc, b_enc, b_pre)
    auxiliary = None if dead_BK is None else _Choice(live_N[kept:].view_as(dead_BK), dead_BK)
    return _Active(live_N[:kept], rows_N[:kept], latents_N[:kept], top.level, auxiliary)


def _auxiliary_width(spec: TopKSpec | BatchTopKSpec, ctx: Context) -> int:
    """Latents that AuxK takes of each row; 0 without it."""
    return auxk.width(spec, ctx.dead_F, ctx.dead_bound) if spec.auxk_coefficient else 0


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
    bounds = _numbers(widths[:-1], active.latents_N.device)
    # Latents of a row ascend and groups are ranges of latents, so bags ascend as well.
    bags_N = active.rows_N * groups + torch.bucketize(active.latents_N, bounds, right=True)
    parts = entries.decode(
        active.values_N.relu(), bags_N, active.latents_N, W_dec_FO, rows * groups
    )
    return parts.view(rows, groups, -1).unbind(1)


def _numbers(values: tuple[int, ...], device: torch.device) -> Tensor:
    """int64: these numbers, written on the device, since the host would wait for a copy."""
    found = torch.empty(len(values), dtype=torch.int64, device=device)
    for place, value in zip(found.unbind(), values, strict=True):
        place.fill_(value)
    return found


def _auxk(residual_BO: Tensor, auxiliary: _Choice | None, W_dec_FO: Tensor, ctx: Context) -> Tensor:
    if auxiliary is None:
        return residual_BO.new_zeros(())
    share = auxk.error_share(residual_BO, auxiliary.decode(W_dec_FO))
    return auxk.where_dead(share, ctx.dead_F)


def _counts(latents: Tensor, active: Tensor, width: int) -> Tensor:
    """How often each latent is active: int64 [F]."""
    counts_F = torch.zeros(width, dtype=torch.int64, device=active.device)
    return counts_F.index_add_(0, latents.flatten(), active.flatten())
