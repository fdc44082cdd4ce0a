"""Gated SAE (Rajamanoharan et al. 2024, arXiv 2404.16014, sections 3.2 and appendix G).

pi = w (x - b_dec) + b_gate decides, h = e^r w (x - b_dec) + b_mag measures: f = 1[pi > 0] ReLU(h),
reconstruction = f W_dec + b_dec. Parameters: W_enc (w) [F, D], b_gate, b_mag, r_mag (r) [F], W_dec
[F, O] with unit rows, b_dec [O]; a transcoder's input has a b_pre [D] of its own in place of b_dec
(see `initialisation`). No state.

The step 1[pi > 0] has no gradient; the gate learns from L1 and from the auxiliary reconstruction
that ReLU(pi) gives through a decoder whose W_dec and b_dec are both frozen copies.
"""

from __future__ import annotations

from torch import Tensor

from saeserve.core.architectures import auxk, continuing, penalty
from saeserve.core.architectures.base import Architecture
from saeserve.core.architectures.contract import (
    Batch,
    Context,
    Dimensions,
    EvaluationForm,
    LossOutput,
    Recordable,
    Tensors,
)
from saeserve.core.architectures.initialisation import (
    input_bias,
    is_autoencoder,
    unit_dictionaries,
)
from saeserve.core.architectures.straight_through import linear
from saeserve.core.ops.norms import source_norms
from saeserve.core.specs.architectures.gated import GatedSpec


class Gated(Architecture[GatedSpec]):
    """The gated architecture; see the module's formulas."""

    def scheduled(self, spec: GatedSpec, step: int, steps: int) -> dict[str, float]:
        """lambda, warmed linearly from 0 over the first `sparsity_warmup_fraction` of the run."""
        return penalty.warmed(spec.sparsity_coefficient, spec.sparsity_warmup_fraction, step, steps)

    def initialise(
        self,
        spec: GatedSpec,
        dims: Dimensions,
        sample_ND: Tensor,
        target_NO: Tensor,
        seed: int,
    ) -> tuple[Tensors, Tensors]:
        """W_dec of random unit rows, w = W_dec^T in an autoencoder; everything else 0."""
        vectors = {name: sample_ND.new_zeros(dims.d_sae) for name in ("b_gate", "b_mag", "r_mag")}
        biases = {"b_dec": sample_ND.new_zeros(dims.d_out)}
        if not is_autoencoder(sample_ND, target_NO):
            biases["b_pre"] = sample_ND.new_zeros(dims.d_in)
        units = unit_dictionaries(dims, sample_ND, target_NO, seed, spec.name)
        return {**units, **vectors, **biases}, {}

    def recordable(self, spec: GatedSpec, ctx: Context) -> Recordable | None:
        """The step's number is read for the penalty's weight alone."""
        return penalty.recordable(spec, ctx)

    def loss(
        self, spec: GatedSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> LossOutput:
        """Mean over rows of |y - y^(f)|^2 + lambda |ReLU(pi)|_1 + |y - y^frozen(ReLU(pi))|^2.

        `auxiliary` is the last; `auxk`, if asked for, rebuilds the residual from ReLU(pi).
        """
        W_dec, b_dec = params["W_dec"], params["b_dec"]
        w_x_BF = linear(batch.x_BD - input_bias(params), params["W_enc"], None, ctx.encoder_dtype)
        gate_BF = w_x_BF + params["b_gate"]
        f_BF = (gate_BF > 0) * (params["r_mag"].exp() * w_x_BF + params["b_mag"]).relu()
        residual_BO = batch.target_BO - (f_BF @ W_dec + b_dec)
        squared_error = residual_BO.square().sum()
        open_BF = gate_BF.relu()
        frozen_BO = batch.target_BO - (open_BF @ W_dec.detach() + b_dec.detach())
        rows = batch.x_BD.shape[0]
        terms = {
            "reconstruction": squared_error / rows,
            "sparsity": penalty.times_weight(spec, ctx, _l1(open_BF, W_dec, batch)) / rows,
            "auxiliary": frozen_BO.square().sum() / rows,
            **auxk.dense_term(spec, gate_BF, residual_BO, W_dec, ctx.dead_F, ctx.dead_bound),
        }
        return LossOutput.of(terms, state, f_BF, squared_error)

    def evaluation_form(self, spec: GatedSpec, params: Tensors, state: Tensors) -> EvaluationForm:
        """A threshold model, exactly: pi > 0 is h > b_mag - e^r b_gate, and f > 0 is h > 0."""
        scale_F = params["r_mag"].exp()
        W_enc = scale_F[:, None] * params["W_enc"]
        return EvaluationForm(
            W_enc_FD=W_enc,
            b_enc_F=params["b_mag"] - W_enc @ input_bias(params),
            W_dec_FO=params["W_dec"].clone(),
            b_dec_O=params["b_dec"].clone(),
            threshold_F=(params["b_mag"] - scale_F * params["b_gate"]).clamp_min(0),
        )

    def vectors_of(self, spec: GatedSpec, form: EvaluationForm, params: Tensors) -> Tensors:
        """With r = 0, W_enc x + b_gate > 0 exactly where W_enc x + b_mag > theta."""
        bias_F = continuing.encoder_bias(spec, form, params, "b_mag")
        gate_F = bias_F - continuing.thresholds(spec, form)
        return {
            "b_mag": bias_F,
            "b_gate": continuing.alive(form, gate_F, params["b_gate"]),
            "r_mag": params["r_mag"].new_zeros(params["r_mag"].shape),
        }


def _l1(open_BF: Tensor, W_dec_FO: Tensor, batch: Batch) -> Tensor:
    """The sum of ReLU(pi), weighed in a crosscoder by the norms of each latent's rows by source,
    which unit rows over the concatenation leave open."""
    if not batch.target_widths:
        return open_BF.sum()
    return open_BF.sum(dim=0) @ source_norms(W_dec_FO, batch.target_widths)
