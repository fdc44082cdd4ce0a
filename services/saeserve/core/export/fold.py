"""From the evaluation form to the exported model: centring, scaling and decoder norms are folded.

With x' = s (x − μ), y' = s_y (y − μ_y) and n_i = ‖W_d,i‖ / s_y (DESIGN section 3):
W_enc = s n_i W_e; b_enc = n_i (b_e − s W_e μ); θ_i ← n_i θ_i; W_dec row = W_d,i / (s_y n_i);
b_dec = b_d / s_y + μ_y. Features become n_i f_i; reconstructions are equal.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.architectures.contract import EvaluationForm
from saeserve.core.data.preprocess import Preprocessing
from saeserve.core.errors import DataMismatchError
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.specs.model import (
    Lineage,
    ModelConfig,
    ReluActivation,
    TensorSource,
    ThresholdActivation,
    TopKActivation,
)

DEAD_NORM = 1e-8
"""Decoder rows of a smaller norm have no direction: the latent is exported as dead."""
_NORM_SPREAD = 1e-4
_BLOCK_ELEMENTS = 2**23


@dataclass(frozen=True)
class FoldedTensors:
    """The tensors of an InferenceModel, in the type that was asked for."""

    W_enc_DF: Tensor
    b_enc_F: Tensor
    W_dec_FO: Tensor
    b_dec_O: Tensor
    threshold_F: Tensor | None
    dead_F: Tensor
    """bool [F]: latents without a decoder direction."""


def fold(
    form: EvaluationForm,
    preprocessing: Preprocessing,
    *,
    architecture: str,
    source: str,
    lineage: Lineage,
) -> InferenceModel:
    """Fold an autoencoder's evaluation form; `source` names its input and output.

    Raises DataMismatchError when the form's widths do not fit the preprocessing, or when a TopK
    model's decoder rows differ in norm, since the fold would then change what is selected.
    """
    folded = fold_tensors(form, preprocessing, preprocessing)
    d_sae, d_in = form.W_enc_FD.shape
    tensor_source = TensorSource(name=source, offset=0, d=d_in)
    config = ModelConfig(
        architecture=architecture,
        d_in=d_in,
        d_out=d_in,
        d_sae=d_sae,
        inputs=(tensor_source,),
        outputs=(tensor_source,),
        activation=_activation(form),
        dead_latents=int(folded.dead_F.sum()),
        lineage=lineage,
    )
    return InferenceModel(
        config=config,
        W_enc=folded.W_enc_DF,
        b_enc=folded.b_enc_F,
        W_dec=folded.W_dec_FO,
        b_dec=folded.b_dec_O,
        threshold=folded.threshold_F,
        centre=preprocessing.mean_D.to(folded.b_enc_F),
        frequency=torch.zeros_like(folded.b_enc_F),
        maximum=torch.zeros_like(folded.b_enc_F),
    )


def fold_tensors(
    form: EvaluationForm,
    source: Preprocessing,
    target: Preprocessing,
    dtype: torch.dtype = torch.float32,
) -> FoldedTensors:
    """The formulas above: computed in float64 block by block of latents, stored as `dtype`.

    A dead latent gets zero encoder and decoder rows and an infinite threshold. Without a threshold
    its pre-activation is exactly 0, so even if top-k selects it, its feature is 0 and left out.
    """
    norm_F = form.W_dec_FO.double().square().sum(dim=1).sqrt()
    _check(form, source, target, norm_F)
    dead_F = norm_F < DEAD_NORM
    n_F = norm_F.masked_fill(dead_F, 0.0) / target.scale
    folded = FoldedTensors(
        W_enc_DF=form.W_enc_FD.new_empty(form.W_enc_FD.shape[::-1], dtype=dtype),
        b_enc_F=form.b_enc_F.new_empty(form.b_enc_F.shape, dtype=dtype),
        W_dec_FO=form.W_dec_FO.new_empty(form.W_dec_FO.shape, dtype=dtype),
        b_dec_O=_fold_output_bias(form, target).to(dtype),
        threshold_F=_fold_threshold(form, n_F, dead_F, dtype),
        dead_F=dead_F,
    )
    rows = max(1, _BLOCK_ELEMENTS // max(form.W_enc_FD.shape[1], form.W_dec_FO.shape[1]))
    for start in range(0, n_F.numel(), rows):
        _fold_latents(form, source, n_F, norm_F, folded, slice(start, start + rows))
    return folded


def with_statistics(
    model: InferenceModel,
    frequency: Tensor,
    maximum: Tensor,
    metrics: Mapping[str, float] | None = None,
) -> InferenceModel:
    """The model with firing statistics [d_sae] and, in its lineage, the figures of an evaluation.

    JSON knows no NaN, so figures that do not exist are left out. Raises DataMismatchError for
    statistics of another width.
    """
    for name, value in (("frequency", frequency), ("maximum", maximum)):
        if value.shape != model.b_enc.shape:
            raise DataMismatchError(
                f"{name} has shape {list(value.shape)}, the model d_sae = {model.config.d_sae}"
            )
    finite = {name: value for name, value in (metrics or {}).items() if math.isfinite(value)}
    known = model.config.lineage
    lineage = known.model_copy(update={"metrics": {**known.metrics, **finite}})
    return dataclasses.replace(
        model,
        config=model.config.model_copy(update={"lineage": lineage}),
        frequency=frequency.to(model.b_enc),
        maximum=maximum.to(model.b_enc),
    )


def _fold_latents(
    form: EvaluationForm,
    source: Preprocessing,
    n_F: Tensor,
    norm_F: Tensor,
    out: FoldedTensors,
    block: slice,
) -> None:
    W_enc_fD = source.scale * form.W_enc_FD[block].double()
    mean_D = source.mean_D.to(W_enc_fD)
    out.W_enc_DF[:, block] = (n_F[block, None] * W_enc_fD).T.to(out.W_enc_DF.dtype)
    bias_f = n_F[block] * (form.b_enc_F[block].double() - W_enc_fD @ mean_D)
    out.b_enc_F[block] = bias_f.to(out.b_enc_F.dtype)
    unit_fO = form.W_dec_FO[block].double() / norm_F[block, None].clamp_min(DEAD_NORM)
    unit_fO[out.dead_F[block]] = 0.0
    out.W_dec_FO[block] = unit_fO.to(out.W_dec_FO.dtype)


def _fold_output_bias(form: EvaluationForm, target: Preprocessing) -> Tensor:
    b_dec_O = form.b_dec_O.double()
    return b_dec_O / target.scale + target.mean_D.to(b_dec_O)


def _fold_threshold(
    form: EvaluationForm, n_F: Tensor, dead_F: Tensor, dtype: torch.dtype
) -> Tensor | None:
    if form.threshold_F is None:
        return None
    return (n_F * form.threshold_F.double()).masked_fill(dead_F, math.inf).to(dtype)


def _activation(form: EvaluationForm) -> TopKActivation | ThresholdActivation | ReluActivation:
    if form.threshold_F is not None:
        return ThresholdActivation()
    return ReluActivation() if form.k is None else TopKActivation(k=form.k)


def _check(
    form: EvaluationForm, source: Preprocessing, target: Preprocessing, norm_F: Tensor
) -> None:
    widths = (form.W_enc_FD.shape[1], form.W_dec_FO.shape[1])
    expected = (source.mean_D.numel(), target.mean_D.numel())
    if widths != expected:
        raise DataMismatchError(
            f"a model of widths {widths} does not fit preprocessing of widths {expected}",
            remedy="fold with the preprocessing that the model was trained with",
        )
    if form.k is not None:
        _check_equal_norms(norm_F)


def _check_equal_norms(norm_F: Tensor) -> None:
    alive = norm_F[norm_F >= DEAD_NORM]
    if alive.numel() and float(alive.max()) > (1 + _NORM_SPREAD) * float(alive.min()):
        raise DataMismatchError(
            f"decoder rows have norms from {float(alive.min()):.6g} to {float(alive.max()):.6g}: "
            "folding them would change which latents top-k selects",
            remedy="train TopK with decoder rows of unit norm",
        )
