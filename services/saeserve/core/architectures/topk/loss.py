"""TopK with AuxK and Multi-TopK (Gao et al. 2024, arXiv 2406.04093, sections 2.3, 5.2 and A.1-2).

f = ReLU(TopK(W_enc (x - b_dec) + b_enc)), reconstruction = f W_dec + b_dec. Parameters: W_enc
[F, D], b_enc [F], W_dec [F, O] with unit rows, b_dec [O] (the paper's b_pre; a transcoder's input
has a b_pre [D] of its own: see `initialisation`). State: `variance`, mean over the initial sample
of |y - mean|^2, by which the squared error is divided.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.architectures import auxk, gradients
from saeserve.core.architectures.active.latents import active_values, decode
from saeserve.core.architectures.active.preactivations import PreActivations
from saeserve.core.architectures.contract import (
    Batch,
    Context,
    Dimensions,
    EvaluationForm,
    LossOutput,
    Stats,
    StepOutput,
    Tensors,
)
from saeserve.core.architectures.initialisation import (
    centre_biases,
    input_bias,
    unit_dictionaries,
    with_encoder_norm,
)
from saeserve.core.architectures.topk import fast
from saeserve.core.specs.architectures.topk import TopKSpec
from saeserve.errors import DataError

SAMPLE_ROWS = 32_768


@dataclass(frozen=True)
class _Choice:
    """Latents that each row may use: values in the graph [B, n], before ReLU, and indices."""

    values_BK: Tensor
    indices_BK: Tensor

    def first(self, n: int) -> _Choice:
        return _Choice(self.values_BK[:, :n], self.indices_BK[:, :n])

    def decode(self, W_dec_FO: Tensor) -> Tensor:
        return decode(self.values_BK.relu(), self.indices_BK, W_dec_FO)


class TopK:
    """The TopK architecture; see the module's formulas."""

    def unit_rows(self, spec: TopKSpec) -> frozenset[str]:  # noqa: ARG002 - the contract's signature
        """The decoder's."""
        return frozenset({"W_dec"})

    def sample_rows(self, spec: TopKSpec, dims: Dimensions) -> int:  # noqa: ARG002 - the contract's signature
        """32,768, as the paper's for the geometric median."""
        return SAMPLE_ROWS

    def scheduled(self, spec: TopKSpec, step: int, steps: int) -> dict[str, float]:  # noqa: ARG002 - the contract's signature
        """TopK schedules nothing."""
        return {}

    def initialise(
        self, spec: TopKSpec, dims: Dimensions, sample_ND: Tensor, target_NO: Tensor, seed: int
    ) -> tuple[Tensors, Tensors]:
        """Random rows for decoder and encoder, alike in direction in an autoencoder, the
        decoder's of norm 1, the encoder's of norm `encoder_norm`; biases at the sample's centres.

        Raises DataError for a sample without variance.
        """
        units = unit_dictionaries(dims, sample_ND, target_NO, seed, spec.name)
        params = {
            **with_encoder_norm(units, spec.encoder_norm),
            **centre_biases(sample_ND, target_NO, spec.b_dec_init),
            "b_enc": sample_ND.new_zeros(dims.d_sae),
        }
        return params, {"variance": sample_variance(target_NO)}

    def loss(
        self, spec: TopKSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> LossOutput:
        """Squared error over the sample's variance, plus Multi-TopK and AuxK where they count.

        Terms: `reconstruction`; `multi_topk` = coefficient x the same with 4k latents; `auxk` =
        coefficient x |e - e_aux|^2 / variance of e, where e is the detached residual and e_aux
        comes from dead latents alone.
        """
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
            terms["auxk"] = _auxk(spec, residual_BO.detach(), auxiliary, W_dec)
        stats = Stats(_fired(main, W_dec.shape[0]), squared_error.detach())
        return LossOutput(torch.stack(list(terms.values())).sum(), terms, state, stats)

    def gradients(
        self, spec: TopKSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> StepOutput:
        """Those of `loss`: in compiled loops where they can run (see `fast`), else by
        autograd."""
        if fast.possible(params, batch):
            return fast.topk(spec, params, state, batch, ctx)
        return gradients.by_autograd(
            lambda leaves: self.loss(spec, leaves, state, batch, ctx), params
        )

    def evaluation_form(
        self,
        spec: TopKSpec,
        params: Tensors,
        state: Tensors,  # noqa: ARG002 - the contract's signature
    ) -> EvaluationForm:
        """Per row already; see `folded`."""
        return folded(params, k=spec.k)


def folded(
    params: Tensors, *, k: int | None = None, threshold_F: Tensor | None = None
) -> EvaluationForm:
    """Fold the bias b subtracted from the input into b_enc: b_enc - W_enc b."""
    return EvaluationForm(
        W_enc_FD=params["W_enc"].clone(),
        b_enc_F=params["b_enc"] - params["W_enc"] @ input_bias(params),
        W_dec_FO=params["W_dec"].clone(),
        b_dec_O=params["b_dec"].clone(),
        threshold_F=threshold_F,
        k=k,
    )


def sample_variance(target_NO: Tensor) -> Tensor:
    """Mean over rows of |y - mean|^2. Raises DataError where that is zero or not finite."""
    variance = (target_NO - target_NO.mean(dim=0)).square().sum(dim=1).mean()
    if not bool(variance > 0) or not bool(torch.isfinite(variance)):
        raise DataError(
            f"the variance of the initial sample is {float(variance)}",
            remedy="give rows that differ and are finite",
        )
    return variance


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
    if spec.auxk_coefficient and (n_aux := auxk.width(spec, ctx.dead_F)):
        picks.append(h.top(n_aux, among_F=ctx.dead_F))
    values_BK = torch.cat([values for values, _ in picks], dim=1)
    indices_BK = torch.cat([indices for _, indices in picks], dim=1)
    live_BK = active_values(values_BK, indices_BK, batch.x_BD, W_enc, b_enc, b_pre)
    width = picks[0][1].shape[1]
    chosen = _Choice(live_BK[:, :width], indices_BK[:, :width])
    if len(picks) == 1:
        return chosen, None
    return chosen, _Choice(live_BK[:, width:], indices_BK[:, width:])


def _auxk(
    spec: TopKSpec, residual_BO: Tensor, auxiliary: _Choice | None, W_dec_FO: Tensor
) -> Tensor:
    if auxiliary is None:
        return residual_BO.new_zeros(())
    share = auxk.error_share(residual_BO, auxiliary.decode(W_dec_FO))
    return spec.auxk_coefficient * share


def _fired(main: _Choice, latents: int) -> Tensor:
    active_BK = (main.values_BK.detach() > 0).long()
    counts_F = torch.zeros(latents, dtype=torch.int64, device=active_BK.device)
    return counts_F.index_add_(0, main.indices_BK.flatten(), active_BK.flatten())
