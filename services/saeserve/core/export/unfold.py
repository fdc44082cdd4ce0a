"""From an exported model back to an evaluation form, for data that are centred and scaled again.

The inverse of `fold`. With x' = s (x − μ), y' = s_y (y − μ_y), one constant a source, and
a_i = 1 / ‖s_y W_dec,i‖, so that decoder rows are of unit norm again: W_e = W_enc / (s a_i);
b_e = (b_enc + W_enc μ) / a_i; θ_i ← θ_i / a_i; W_d row = a_i s_y W_dec,i;
W_skip' = s_y W_skip / s; b_d = s_y (b_dec + W_skip μ − μ_y). Features become f_i / a_i.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.architectures.contract import EvaluationForm
from saeserve.core.data.preprocess import AnyPreprocessing, mean_of
from saeserve.core.export.fold import DEAD_NORM
from saeserve.core.export.inference_model import InferenceModel
from saeserve.errors import DataMismatchError


def unfold(
    model: InferenceModel, source: AnyPreprocessing, target: AnyPreprocessing
) -> EvaluationForm:
    """The model as a form of rows preprocessed by `source`; computed in float64, kept in float32.

    A dead latent has a decoder row of zeros. Raises DataMismatchError where the preprocessing is
    of other widths than the model.
    """
    _check_widths(model, source, target)
    s_D, s_O = _scales(source), _scales(target)
    mean_D, W_enc_DF = mean_of(source).double(), model.W_enc.double()
    scaled_FO = model.W_dec.double() * s_O
    norm_F = scaled_FO.square().sum(dim=1).sqrt()
    a_F = torch.where(norm_F < DEAD_NORM, 1.0, norm_F.clamp_min(DEAD_NORM).reciprocal())
    threshold = model.threshold
    return EvaluationForm(
        W_enc_FD=((W_enc_DF / s_D[:, None]) / a_F).T.float().contiguous(),
        b_enc_F=((model.b_enc.double() + mean_D @ W_enc_DF) / a_F).float(),
        W_dec_FO=(a_F[:, None] * scaled_FO).float(),
        b_dec_O=_output_bias(model, s_O, mean_D, mean_of(target).double()).float(),
        threshold_F=None if threshold is None else (threshold.double() / a_F).float(),
        k=model.config.k,
        W_skip_OD=None
        if model.W_skip is None
        else (s_O[:, None] * model.W_skip.double() / s_D).float(),
    )


def _output_bias(model: InferenceModel, s_O: Tensor, mean_D: Tensor, mean_O: Tensor) -> Tensor:
    b_dec_O = model.b_dec.double()
    if model.W_skip is not None:
        b_dec_O = b_dec_O + model.W_skip.double() @ mean_D
    return s_O * (b_dec_O - mean_O)


def _scales(preprocessing: AnyPreprocessing) -> Tensor:
    """The scale of every column, float64 [d]."""
    return torch.cat(
        [torch.full((p.mean_D.numel(),), p.scale).double() for p in preprocessing.parts]
    )


def _check_widths(
    model: InferenceModel, source: AnyPreprocessing, target: AnyPreprocessing
) -> None:
    found = (mean_of(source).numel(), mean_of(target).numel())
    wanted = (model.config.d_in, model.config.d_out)
    if found != wanted:
        raise DataMismatchError(
            f"a model of widths {wanted} does not fit data of widths {found}",
            remedy="continue on the site that the model was trained on",
        )
