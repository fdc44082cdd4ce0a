"""ReLU with an L1 penalty weighted by decoder norms (Anthropic, Circuits Updates, April 2024).

f = ReLU(W_enc x + b_enc), reconstruction = f W_dec + b_dec, penalty lambda sum_i f_i |W_dec,i|.
Parameters: W_enc [F, D], b_enc [F], W_dec [F, O], b_dec [O]. No state. The input is not centred
by b_dec; centring is the data's (PreprocessSpec). With `unit_norm` the decoder's rows are kept at
norm 1, where the penalty is the plain L1 of Bricken et al. 2023.
"""

from __future__ import annotations

from torch import Tensor

from saeserve.core.architectures import auxk, penalty
from saeserve.core.architectures.base import Architecture
from saeserve.core.architectures.contract import (
    Batch,
    Context,
    Dimensions,
    LossOutput,
    Recordable,
    Tensors,
)
from saeserve.core.architectures.initialisation import unit_dictionaries
from saeserve.core.architectures.straight_through import linear
from saeserve.core.ops.norms import source_norms
from saeserve.core.specs.architectures.relu import ReluSpec


class Relu(Architecture[ReluSpec]):
    """The ReLU architecture; see the module's formulas."""

    def unit_rows(self, spec: ReluSpec) -> frozenset[str]:
        """The decoder's, where the spec asks for it."""
        return frozenset({"W_dec"} if spec.unit_norm else ())

    def scheduled(self, spec: ReluSpec, step: int, steps: int) -> dict[str, float]:
        """lambda, warmed linearly from 0 over the first `sparsity_warmup_fraction` of the run."""
        return penalty.warmed(spec.sparsity_coefficient, spec.sparsity_warmup_fraction, step, steps)

    def initialise(
        self, spec: ReluSpec, dims: Dimensions, sample_ND: Tensor, target_NO: Tensor, seed: int
    ) -> tuple[Tensors, Tensors]:
        """W_dec's rows of random direction and norm `decoder_norm` (1 under `unit_norm`);
        W_enc = W_dec^T for an autoencoder, else drawn alike; biases 0."""
        norm = 1.0 if spec.unit_norm else spec.decoder_norm
        units = unit_dictionaries(dims, sample_ND, target_NO, seed, spec.name)
        params = {
            **{name: norm * rows for name, rows in units.items()},
            "b_enc": sample_ND.new_zeros(dims.d_sae),
            "b_dec": sample_ND.new_zeros(dims.d_out),
        }
        return params, {}

    def recordable(self, spec: ReluSpec, ctx: Context) -> Recordable | None:
        """The step's number is read for the penalty's weight alone."""
        return penalty.recordable(spec, ctx)

    def loss(
        self, spec: ReluSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> LossOutput:
        """Mean over rows of |y - y^|^2 + lambda sum_i f_i n_i, n the norms of W_dec's rows; for a
        crosscoder the sums of their norms by source.

        Under `unit_norm` n is 1 and not differentiated: the constraint holds it (not for a
        crosscoder, whose sums the constraint leaves open).
        """
        W_dec = params["W_dec"]
        h_BF = linear(batch.x_BD, params["W_enc"], params["b_enc"], ctx.encoder_dtype)
        f_BF = h_BF.relu()
        residual_BO = batch.target_BO - (f_BF @ W_dec + params["b_dec"])
        squared_error = residual_BO.square().sum()
        rows = batch.x_BD.shape[0]
        mean_F = f_BF.sum(dim=0) / rows
        plain = spec.unit_norm and not batch.target_widths
        weighted = mean_F.sum() if plain else mean_F @ source_norms(W_dec, batch.target_widths)
        terms = {
            "reconstruction": squared_error / rows,
            "sparsity": penalty.times_weight(spec, ctx, weighted),
            **auxk.dense_term(spec, h_BF, residual_BO, W_dec, ctx.dead_F, ctx.dead_bound),
        }
        return LossOutput.of(terms, state, f_BF, squared_error)
