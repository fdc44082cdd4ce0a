"""From the evaluation form to the exported model: centring, scaling and decoder norms are folded.

With x' = s (x − μ), y' = s_y (y − μ_y) and n_i = ‖W_d,i / s_y‖ (docs/DESIGN.md, "Three forms"):
W_enc = s n_i W_e; b_enc = n_i (b_e − s W_e μ); θ_i ← n_i θ_i; W_dec row = W_d,i / (s_y n_i);
W_skip = s W_skip' / s_y; b_dec = b_d / s_y + μ_y − W_skip μ. Features become n_i f_i;
reconstructions are equal. s and s_y are one constant a source, so for a crosscoder they differ
along the concatenation, and n_i is not a multiple of ‖W_d,i‖: top-k then has to choose by
n_i f_i · ‖W_d,i‖ / n_i, whose second factor is the model's `selection`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from saeserve.core.architectures.contract import EvaluationForm
from saeserve.core.data.preprocess import AnyPreprocessing, mean_of
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.model import (
    Lineage,
    ModelConfig,
    TensorSource,
    activation_of,
)
from saeserve.errors import DataMismatchError

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
    W_skip_OD: Tensor | None = None
    selection_F: Tensor | None = None
    """Set where top-k must choose by h · selection."""


@dataclass(frozen=True)
class Side:
    """What a model reads or writes: named sources side by side, how each was preprocessed, and the
    norm up to which its rows were trained on."""

    names: tuple[str, ...]
    preprocessing: AnyPreprocessing
    norm_bounds: tuple[float | None, ...] = ()

    @property
    def sources(self) -> tuple[TensorSource, ...]:
        """The sources' places along the axis."""
        widths = [part.mean_D.numel() for part in self.preprocessing.parts]
        offsets = accumulate(widths, initial=0)
        bounds = self.norm_bounds or (None,) * len(widths)
        return tuple(
            TensorSource(name=name, offset=offset, d=d, norm_bound=bound)
            for name, offset, d, bound in zip(self.names, offsets, widths, bounds, strict=False)
        )


def fold(
    form: EvaluationForm,
    preprocessing: AnyPreprocessing,
    *,
    architecture: str,
    source: str,
    lineage: Lineage,
) -> InferenceModel:
    """Fold an autoencoder's evaluation form; `source` names its input and output.

    Raises as `fold_between`.
    """
    side = Side((source,), preprocessing)
    return fold_between(form, side, side, architecture=architecture, lineage=lineage)


def fold_between(
    form: EvaluationForm, source: Side, target: Side, *, architecture: str, lineage: Lineage
) -> InferenceModel:
    """Fold an evaluation form from `source` to `target`: equal for autoencoder and crosscoder.

    Raises DataMismatchError when the form's widths do not fit the preprocessing, or when the
    decoder rows of a model with k differ in norm, since the fold would change what is selected.
    """
    folded = fold_tensors(form, source.preprocessing, target.preprocessing)
    config = ModelConfig(
        architecture=architecture,
        d_in=form.W_enc_FD.shape[1],
        d_out=form.W_dec_FO.shape[1],
        d_sae=form.W_enc_FD.shape[0],
        inputs=source.sources,
        outputs=target.sources,
        activation=activation_of(
            form.k,
            thresholds=form.threshold_F is not None,
            weighted=folded.selection_F is not None,
        ),
        skip_connection=folded.W_skip_OD is not None,
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
        centre=mean_of(source.preprocessing).to(folded.b_enc_F),
        frequency=torch.zeros_like(folded.b_enc_F),
        maximum=torch.zeros_like(folded.b_enc_F),
        W_skip=folded.W_skip_OD,
        selection=folded.selection_F,
    )


def fold_tensors(
    form: EvaluationForm,
    source: AnyPreprocessing,
    target: AnyPreprocessing,
    dtype: torch.dtype = torch.float32,
) -> FoldedTensors:
    """The formulas above: computed in float64 block by block of latents, stored as `dtype`.

    A dead latent gets zero encoder and decoder rows and an infinite threshold. Without a threshold
    its pre-activation is exactly 0, so even if top-k selects it, its feature is 0 and left out.
    """
    _check_widths(form, source, target)
    norm_F, n_F = _norms(form.W_dec_FO, target)
    if form.k is not None:
        _check_equal_norms(norm_F)
    dead_F = norm_F < DEAD_NORM
    n_F = n_F.masked_fill(dead_F, 0.0)
    W_skip_OD = _fold_skip(form, source, target)
    folded = FoldedTensors(
        W_enc_DF=form.W_enc_FD.new_empty(form.W_enc_FD.shape[::-1], dtype=dtype),
        b_enc_F=form.b_enc_F.new_empty(form.b_enc_F.shape, dtype=dtype),
        W_dec_FO=form.W_dec_FO.new_empty(form.W_dec_FO.shape, dtype=dtype),
        b_dec_O=_fold_output_bias(form, source, target, W_skip_OD).to(dtype),
        threshold_F=_fold_threshold(form, n_F, dead_F, dtype),
        dead_F=dead_F,
        W_skip_OD=None if W_skip_OD is None else W_skip_OD.to(dtype),
        selection_F=_selection(form, target, norm_F, n_F, dtype),
    )
    rows = max(1, _BLOCK_ELEMENTS // max(form.W_enc_FD.shape[1], form.W_dec_FO.shape[1]))
    for start in range(0, n_F.numel(), rows):
        _fold_latents(form, source, target, n_F, folded, slice(start, start + rows))
    return folded


def _fold_latents(
    form: EvaluationForm,
    source: AnyPreprocessing,
    target: AnyPreprocessing,
    n_F: Tensor,
    out: FoldedTensors,
    block: slice,
) -> None:
    W_enc_fD = _scales(source, n_F) * form.W_enc_FD[block].double()
    mean_D = mean_of(source).to(W_enc_fD)
    out.W_enc_DF[:, block] = (n_F[block, None] * W_enc_fD).T.to(out.W_enc_DF.dtype)
    bias_f = n_F[block] * (form.b_enc_F[block].double() - W_enc_fD @ mean_D)
    out.b_enc_F[block] = bias_f.to(out.b_enc_F.dtype)
    raw_fO = form.W_dec_FO[block].double() / _scales(target, n_F)
    unit_fO = raw_fO / n_F[block, None].masked_fill(out.dead_F[block, None], 1.0)
    unit_fO[out.dead_F[block]] = 0.0
    out.W_dec_FO[block] = unit_fO.to(out.W_dec_FO.dtype)


def _scales(preprocessing: AnyPreprocessing, like: Tensor) -> Tensor:
    """The scale of every column, float64 [d]."""
    parts = [like.new_full((p.mean_D.numel(),), p.scale) for p in preprocessing.parts]
    return torch.cat(parts)


def _norms(W_dec_FO: Tensor, target: AnyPreprocessing) -> tuple[Tensor, Tensor]:
    """Norms of the decoder rows as trained and in raw activation space, float64 [F] each; block by
    block too, for whole decoders in float64 would be the most that a job ever holds."""
    widths = [part.mean_D.numel() for part in target.parts]
    trained_F = W_dec_FO.new_zeros(W_dec_FO.shape[0], dtype=torch.float64)
    raw_F = torch.zeros_like(trained_F)
    rows = max(1, _BLOCK_ELEMENTS // W_dec_FO.shape[1])
    for start in range(0, W_dec_FO.shape[0], rows):
        block = slice(start, start + rows)
        columns = W_dec_FO[block].split_with_sizes(widths, dim=1)
        for part, part_fS in zip(target.parts, columns, strict=True):
            squares_f = part_fS.double().square().sum(dim=1)
            trained_F[block] += squares_f
            raw_F[block] += squares_f / part.scale**2
    return trained_F.sqrt(), raw_F.sqrt()


def _fold_skip(
    form: EvaluationForm, source: AnyPreprocessing, target: AnyPreprocessing
) -> Tensor | None:
    if form.W_skip_OD is None:
        return None
    W_skip_OD = form.W_skip_OD.double()
    return W_skip_OD * _scales(source, W_skip_OD) / _scales(target, W_skip_OD)[:, None]


def _fold_output_bias(
    form: EvaluationForm,
    source: AnyPreprocessing,
    target: AnyPreprocessing,
    W_skip_OD: Tensor | None,
) -> Tensor:
    b_dec_O = form.b_dec_O.double()
    raw_O = b_dec_O / _scales(target, b_dec_O) + mean_of(target).to(b_dec_O)
    return raw_O if W_skip_OD is None else raw_O - W_skip_OD @ mean_of(source).to(b_dec_O)


def _selection(
    form: EvaluationForm,
    target: AnyPreprocessing,
    norm_F: Tensor,
    n_F: Tensor,
    dtype: torch.dtype,
) -> Tensor | None:
    """‖W_d,i‖ / n_i where it differs from latent to latent: for top-k over scales that differ."""
    if form.k is None or len({part.scale for part in target.parts}) == 1:
        return None
    dead_F = n_F == 0
    return (norm_F / n_F.masked_fill(dead_F, 1.0)).masked_fill(dead_F, 0.0).to(dtype)


def _fold_threshold(
    form: EvaluationForm, n_F: Tensor, dead_F: Tensor, dtype: torch.dtype
) -> Tensor | None:
    if form.threshold_F is None:
        return None
    return (n_F * form.threshold_F.double()).masked_fill(dead_F, math.inf).to(dtype)


def _check_widths(form: EvaluationForm, source: AnyPreprocessing, target: AnyPreprocessing) -> None:
    widths = (form.W_enc_FD.shape[1], form.W_dec_FO.shape[1])
    expected = (mean_of(source).numel(), mean_of(target).numel())
    if widths != expected:
        raise DataMismatchError(
            f"a model of widths {widths} does not fit preprocessing of widths {expected}",
            remedy="fold with the preprocessing that the model was trained with",
        )


def _check_equal_norms(norm_F: Tensor) -> None:
    alive = norm_F[norm_F >= DEAD_NORM]
    if alive.numel() and float(alive.max()) > (1 + _NORM_SPREAD) * float(alive.min()):
        raise DataMismatchError(
            f"decoder rows have norms from {float(alive.min()):.6g} to {float(alive.max()):.6g}: "
            "folding them would change which latents top-k selects",
            remedy="train a model with k with decoder rows of unit norm",
        )
