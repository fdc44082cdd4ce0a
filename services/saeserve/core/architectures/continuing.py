"""Parameters that continue from an evaluation form: what `Architecture.from_form` is made of.

An architecture's form is inverted so that a run of no steps gives the same form again. Latents
that are dead in the form (decoder rows of zeros) start from a fresh initialisation, and so do
values that a form does not hold: the sample's variance, a transcoder's b_pre, firing frequencies.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.architectures.contract import EvaluationForm, Tensors
from saeserve.core.architectures.initialisation import input_bias
from saeserve.core.specs.architectures.base import ArchitectureSpec
from saeserve.errors import DataMismatchError, SpecError

_SPREAD = 0.1
"""Largest relative difference of thresholds that stand for one: a crosscoder's differ where its
sources' scales do, and the first micro-batches calibrate again."""
_NEEDED = {"topk": "k", "threshold": "thresholds", "relu": "no threshold and no k"}
"""What a form has, by kind of activation."""


def one_threshold(spec: ArchitectureSpec, form: EvaluationForm) -> Tensor:
    """The mean of the form's thresholds, float64; raises DataMismatchError where they differ."""
    threshold_F = thresholds(spec, form)
    finite = threshold_F[torch.isfinite(threshold_F)].double()
    threshold = finite.mean() if finite.numel() else finite.new_zeros(())
    if finite.numel() and float(finite.max() - finite.min()) > _SPREAD * float(threshold):
        raise DataMismatchError(
            f"thresholds from {float(finite.min()):.6g} to {float(finite.max()):.6g} differ by "
            f"latent, and {spec.name} has one for all",
            remedy="continue the model as jumprelu",
        )
    return threshold


def thresholds(spec: ArchitectureSpec, form: EvaluationForm) -> Tensor:
    """The form's thresholds [F]; raises SpecError where it has none."""
    if form.threshold_F is None:
        raise _unfit(spec)
    return form.threshold_F


def check_activation(spec: ArchitectureSpec, form: EvaluationForm) -> None:
    """Raise SpecError unless the form has the activation that the architecture exports."""
    if form.activation != spec.exported_activation:
        raise _unfit(spec)


def _unfit(spec: ArchitectureSpec) -> SpecError:
    return SpecError(
        "train.init_from",
        f"{spec.name} continues a model with {_NEEDED[spec.exported_activation]}, and this one is "
        "another",
        remedy="continue it as the architecture that it was trained as",
    )


def dictionaries(form: EvaluationForm, fresh: Tensors) -> Tensors:
    """W_enc, W_dec and b_dec of `form`.

    Copies throughout: training writes to them, and several runs may begin with one form.
    """
    return {
        "W_enc": alive(form, form.W_enc_FD, fresh["W_enc"]),
        "W_dec": alive(form, form.W_dec_FO, fresh["W_dec"]),
        "b_dec": form.b_dec_O.to(fresh["b_dec"], copy=True),
    }


def alive(form: EvaluationForm, known: Tensor, fresh: Tensor) -> Tensor:
    """Rows of `known`; those of `fresh` for dead latents."""
    dead_F = (form.W_dec_FO == 0).all(dim=1)
    rows = dead_F.view(-1, *(1,) * (known.ndim - 1))
    return torch.where(rows, fresh, known.to(fresh))


def encoder_bias(
    spec: ArchitectureSpec, form: EvaluationForm, params: Tensors, name: str
) -> Tensor:
    """The encoder's bias, called `name`, of latents that read x less the input's bias if any."""
    if not spec.has_input_bias:
        return alive(form, form.b_enc_F, params[name])
    shift_F = params["W_enc"] @ input_bias(params)
    return alive(form, form.b_enc_F + shift_F, params[name])
