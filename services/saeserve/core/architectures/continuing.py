"""Parameters and state that continue from an evaluation form: the inverse of `evaluation_form`.

Each architecture's form is inverted so that a run of no steps gives the same form again. Latents
that are dead in the form (decoder rows of zeros) start anew, from a fresh initialisation, and so
do what a form does not hold: the sample's variance, a transcoder's b_pre, firing frequencies.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from saeserve.core.architectures.contract import EvaluationForm, Tensors
from saeserve.core.architectures.initialisation import input_bias
from saeserve.core.architectures.skip import W_SKIP
from saeserve.core.specs.architectures.base import ArchitectureSpec
from saeserve.errors import DataMismatchError, SpecError

SMALLEST_THRESHOLD = 1e-6
"""JumpReLU's threshold is exp(t), never 0; so close to it, it is ReLU's all the same."""
_SPREAD = 0.1
"""Of BatchTopK's thresholds, relative: a crosscoder's spread where its sources' scales differ from
those of the first run; the first micro-batches calibrate anew."""


def continued(
    spec: ArchitectureSpec, form: EvaluationForm, params: Tensors, state: Tensors
) -> tuple[Tensors, Tensors]:
    """`params` and `state` of a fresh initialisation with what `form` says in their place.

    Raises SpecError for an architecture that the form's activation is not of, and
    DataMismatchError for BatchTopK from thresholds that differ by latent.
    """
    # Copies throughout: training writes to them, and several runs may begin with one form.
    common = {
        "W_enc": _alive(form, form.W_enc_FD, params["W_enc"]),
        "W_dec": _alive(form, form.W_dec_FO, params["W_dec"]),
        "b_dec": form.b_dec_O.to(params["b_dec"], copy=True),
    }
    if form.W_skip_OD is not None:
        common[W_SKIP] = form.W_skip_OD.to(params[W_SKIP], copy=True)
    rest, new_state = _REST[spec.name](spec, form, {**params, **common}, state)
    return {**params, **common, **rest}, new_state


def _alive(form: EvaluationForm, known: Tensor, fresh: Tensor) -> Tensor:
    """Rows of `known`; those of `fresh` for dead latents."""
    dead_F = (form.W_dec_FO == 0).all(dim=1)
    rows = dead_F.view(-1, *(1,) * (known.ndim - 1))
    return torch.where(rows, fresh, known.to(fresh))


def _bias(form: EvaluationForm, params: Tensors, name: str) -> Tensor:
    """The encoder's bias of an architecture that subtracts `input_bias` from its input."""
    shift_F = params["W_enc"] @ input_bias(params)
    return _alive(form, form.b_enc_F + shift_F, params[name])


def _topk(
    spec: ArchitectureSpec, form: EvaluationForm, params: Tensors, state: Tensors
) -> tuple[Tensors, Tensors]:
    if form.k is None:
        raise _unfit(spec, "k")
    return {"b_enc": _bias(form, params, "b_enc")}, state


def _batchtopk(
    spec: ArchitectureSpec, form: EvaluationForm, params: Tensors, state: Tensors
) -> tuple[Tensors, Tensors]:
    threshold_F = _thresholds(spec, form)
    finite = threshold_F[torch.isfinite(threshold_F)].double()
    threshold = finite.mean() if finite.numel() else finite.new_zeros(())
    if finite.numel() and float(finite.max() - finite.min()) > _SPREAD * float(threshold):
        raise DataMismatchError(
            f"thresholds from {float(finite.min()):.6g} to {float(finite.max()):.6g} differ by "
            f"latent, and {spec.name} has one for all",
            remedy="continue the model as jumprelu",
        )
    known = threshold.to(state["threshold"])
    return {"b_enc": _bias(form, params, "b_enc")}, {**state, "threshold": known}


def _relu(
    spec: ArchitectureSpec, form: EvaluationForm, params: Tensors, state: Tensors
) -> tuple[Tensors, Tensors]:
    if form.k is not None or form.threshold_F is not None:
        raise _unfit(spec, "no threshold and no k")
    return {"b_enc": _alive(form, form.b_enc_F, params["b_enc"])}, state


def _jumprelu(
    spec: ArchitectureSpec, form: EvaluationForm, params: Tensors, state: Tensors
) -> tuple[Tensors, Tensors]:
    t_F = _thresholds(spec, form).clamp_min(SMALLEST_THRESHOLD).log()
    bias_F = _alive(form, form.b_enc_F, params["b_enc"])
    return {"b_enc": bias_F, "t": _alive(form, t_F, params["t"])}, state


def _gated(
    spec: ArchitectureSpec, form: EvaluationForm, params: Tensors, state: Tensors
) -> tuple[Tensors, Tensors]:
    """With r = 0, W_enc x + b_gate > 0 exactly where W_enc x + b_mag > theta."""
    threshold_F = _thresholds(spec, form)
    gate_F = _bias(form, params, "b_mag") - threshold_F
    return {
        "b_mag": _bias(form, params, "b_mag"),
        "b_gate": _alive(form, gate_F, params["b_gate"]),
        "r_mag": torch.zeros_like(params["r_mag"]),
    }, state


def _thresholds(spec: ArchitectureSpec, form: EvaluationForm) -> Tensor:
    if form.threshold_F is None:
        raise _unfit(spec, "thresholds")
    return form.threshold_F


def _unfit(spec: ArchitectureSpec, what: str) -> SpecError:
    return SpecError(
        "train.init_from",
        f"{spec.name} continues a model with {what}, and this one is another",
        remedy="continue it as the architecture that it was trained as",
    )


_Continue = Callable[[ArchitectureSpec, EvaluationForm, Tensors, Tensors], tuple[Tensors, Tensors]]
_REST: dict[str, _Continue] = {
    "topk": _topk,
    "batchtopk": _batchtopk,
    "matryoshka": _batchtopk,
    "relu": _relu,
    "jumprelu": _jumprelu,
    "gated": _gated,
}
