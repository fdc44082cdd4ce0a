"""JumpReLU with one of three penalties, and the pre-act loss.

h = W_enc x + b_enc, f = h where h > theta = exp(t), reconstruction = f W_dec + b_dec. Parameters:
W_enc [F, D], b_enc [F], t [F], W_dec [F, O], b_dec [O]. No state. The input is not centred by
b_dec; centring is the data's (PreprocessSpec).

Whether a latent fires is seen by s_i, whose mean over the micro-batch's rows is p_i:

- `tanh` (Anthropic, Circuits Updates, January 2025): s_i = tanh(c f_i n_i), penalty lambda sum p_i;
- `l0` (Rajamanoharan et al. 2024, arXiv 2407.14435): s_i = 1[h_i > theta_i] with a straight-through
  gradient to theta alone, penalty lambda sum p_i;
- `quadratic` (as Gemma Scope 2): the same s_i, penalty lambda (sum p_i / L0* - 1)^2.

Under `target_l0` all three are quadratic, each in its own s_i, with the L0* that the controller
asks for: JumpReLU's own gradient can bring L0 below the path, from where no lambda raises it.

With `frequency_scale` p0, sum p_i (1 + p_i / p0) takes the place of sum p_i: the price of firing
once more is then (1 + 2 p_i / p0) times as high, dear for latents that fire often (in the quadratic
form this is scaled back to sum p_i, so that L0* keeps its meaning). Gemma Scope 2 announces such a
penalty without its formula; this one is Llamascopium's `tanh-quad`, with p0 = 0.01.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from saeserve.core.architectures import auxk, continuing, penalty
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
from saeserve.core.architectures.initialisation import is_autoencoder, unit_dictionaries
from saeserve.core.architectures.jumprelu.penalty import sparsity
from saeserve.core.architectures.straight_through import jump_relu, linear, step
from saeserve.core.ops.draws import generator
from saeserve.core.ops.norms import source_norms
from saeserve.core.specs.architectures.jumprelu import JumpReluSpec

SMALLEST_THRESHOLD = 1e-6
"""A threshold is exp(t), never 0; so close to it, it is ReLU's all the same."""
QUANTILE_BLOCK = JumpReluSpec.quantile_latents
"""Latents whose quantiles are taken at a time: bounds the [rows, block] temporary."""


class JumpRelu(Architecture[JumpReluSpec]):
    """The JumpReLU architecture; see the module's formulas."""

    def unit_rows(self, spec: JumpReluSpec) -> frozenset[str]:
        """The decoder's, where the spec asks for it."""
        return frozenset({"W_dec"} if spec.unit_norm else ())

    def scheduled(self, spec: JumpReluSpec, step: int, steps: int) -> dict[str, float]:
        """lambda_S, from 0 at the first step linearly to its full value at the last; that of
        `quadratic` is constant."""
        warm = 0.0 if spec.penalty == "quadratic" else 1.0
        return penalty.warmed(spec.sparsity_coefficient, warm, step, steps)

    def initialise(
        self, spec: JumpReluSpec, dims: Dimensions, sample_ND: Tensor, target_NO: Tensor, seed: int
    ) -> tuple[Tensors, Tensors]:
        """W_dec ~ U(-1/sqrt(n), 1/sqrt(n)); W_enc = (n/m) W_dec^T for an autoencoder, else
        U(-1/sqrt(m), 1/sqrt(m)); b_dec = 0; b_enc so that each latent fires on initial_l0 / d_sae
        of the sample. Under `unit_norm` dictionaries are random unit rows, tied alike."""
        if spec.unit_norm:
            rows = unit_dictionaries(dims, sample_ND, target_NO, seed, spec.name)
        else:
            rows = _uniform_dictionaries(dims, sample_ND, target_NO, seed)
        t = sample_ND.new_full((dims.d_sae,), spec.initial_log_threshold)
        params = {
            **rows,
            "b_enc": t.exp() - _firing_levels(sample_ND, rows["W_enc"], spec.resolved_initial_l0),
            "t": t,
            "b_dec": sample_ND.new_zeros(dims.d_out),
        }
        return params, {}

    def recordable(self, spec: JumpReluSpec, ctx: Context) -> Recordable | None:
        """The step's number is read for the penalty's weight alone."""
        return penalty.recordable(spec, ctx)

    def loss(
        self, spec: JumpReluSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> LossOutput:
        """Mean over rows of |y - y^|^2 + lambda_P sum ReLU(theta - h) n, and the penalty of the
        module's text; n the norms of W_dec's rows, for a crosscoder their sums by source.

        f >= 0, so |f| = f with derivative 1 at 0: silent latents in the band move t
        (docs/RECIPES.md, "JumpReLU").
        """
        W_dec, t = params["W_dec"], params["t"]
        h_BF = linear(batch.x_BD, params["W_enc"], params["b_enc"], ctx.encoder_dtype)
        chain = spec.penalty != "tanh"
        f_BF = jump_relu(h_BF, t, spec.bandwidth, to_input=spec.ste_to_input, chain=chain)
        residual_BO = batch.target_BO - (f_BF @ W_dec + params["b_dec"])
        squared_error = residual_BO.square().sum()
        norms_F = source_norms(W_dec, batch.target_widths)
        below_BF = f_BF if spec.literal_pre_act else h_BF
        pre_act = ((t.exp() - below_BF).relu() * norms_F).sum()
        rows = batch.x_BD.shape[0]
        terms = {
            "reconstruction": squared_error / rows,
            "sparsity": sparsity(spec, ctx, _firing(spec, f_BF, norms_F, h_BF, t).mean(dim=0)),
            "pre_act": spec.pre_act_coefficient * pre_act / rows,
            **auxk.dense_term(spec, h_BF, residual_BO, W_dec, ctx.dead_F, ctx.dead_bound),
        }
        return LossOutput.of(terms, state, f_BF, squared_error)

    def evaluation_form(
        self, spec: JumpReluSpec, params: Tensors, state: Tensors
    ) -> EvaluationForm:
        """The training form is per row already; theta = exp(t)."""
        return form_of(spec, params, threshold_F=params["t"].exp())

    def vectors_of(self, spec: JumpReluSpec, form: EvaluationForm, params: Tensors) -> Tensors:
        """With t = log theta, where theta is not 0: ReLU's threshold is very near to it."""
        t_F = continuing.thresholds(spec, form).clamp_min(SMALLEST_THRESHOLD).log()
        t_F = continuing.alive(form, t_F, params["t"])
        return {**super().vectors_of(spec, form, params), "t": t_F}

    def revive(
        self,
        spec: JumpReluSpec,
        params: Tensors,
        state: Tensors,
        form: EvaluationForm,
        new: Revival,
    ) -> Tensors:
        """With the live latents' mean t, and a bias with which a latent fires on rows at least half
        as far along as its own."""
        found = super().revive(spec, params, state, form, new)
        x_ND, _ = self.centred(spec, params, new.rows)
        t_N = found["t"] + new.of_live(params["t"]).mean()
        along_N = (found["W_enc"] * x_ND).sum(dim=1)
        return {**found, "t": t_N, "b_enc": found["b_enc"] + (t_N.exp() - along_N / 2)}


def _firing(spec: JumpReluSpec, f_BF: Tensor, norms_F: Tensor, h_BF: Tensor, t_F: Tensor) -> Tensor:
    """s of the module's text, [B, F]."""
    if spec.penalty == "tanh":
        return torch.tanh(spec.tanh_scale * f_BF * norms_F)
    return step(h_BF, t_F, spec.bandwidth)


def _uniform_dictionaries(
    dims: Dimensions, sample_ND: Tensor, target_NO: Tensor, seed: int
) -> Tensors:
    W_dec = _uniform(dims.d_sae, dims.d_out, dims.d_in, seed, "W_dec").to(sample_ND)
    if is_autoencoder(sample_ND, target_NO):
        return {"W_enc": W_dec * (dims.d_in / dims.d_sae), "W_dec": W_dec}
    W_enc = _uniform(dims.d_sae, dims.d_in, dims.d_sae, seed, "W_enc").to(sample_ND)
    return {"W_enc": W_enc, "W_dec": W_dec}


def _uniform(rows: int, columns: int, width: int, seed: int, name: str) -> Tensor:
    """[rows, columns] ~ U(-1/sqrt(width), 1/sqrt(width))."""
    draws = generator(seed, 0, f"jumprelu.{name}")
    bound = 1 / math.sqrt(width)
    return torch.empty(rows, columns, dtype=torch.float32).uniform_(-bound, bound, generator=draws)


def _firing_levels(sample_ND: Tensor, W_enc_FD: Tensor, initial_l0: float) -> Tensor:
    """For each latent the level that W_enc x exceeds on initial_l0 / d_sae of the sample:
    half-way between the last row that is to fire and the first that is not."""
    rows, latents = sample_ND.shape[0], W_enc_FD.shape[0]
    firing = min(max(round(rows * initial_l0 / latents), 1), rows - 1)
    levels: list[Tensor] = []
    for start in range(0, latents, QUANTILE_BLOCK):
        block_ND = sample_ND @ W_enc_FD[start : start + QUANTILE_BLOCK].T
        top, _rows = block_ND.topk(firing + 1, dim=0)
        levels.append((top[firing - 1] + top[firing]) / 2)
    return torch.cat(levels)
