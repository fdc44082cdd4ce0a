"""AuxK: the residual rebuilt from dead latents (Gao et al. 2024, arXiv 2406.04093, section A.2).

The residual e is detached, auxiliary activations are ReLUs of the pre-activations of the row's
k_aux largest dead latents, and |e - e_aux|^2 is divided by the variance of e. Any architecture
may add it; what counts as a pre-activation is the architecture's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saeserve.core.architectures.active.latents import decode
from saeserve.core.architectures.active.preactivations import largest_first
from saeserve.core.architectures.contract import Tensors
from saeserve.core.gpu.device import accelerates
from saeserve.core.specs.architectures.base import AuxKSpec
from saeserve.errors import SpecError


def width(spec: AuxKSpec, dead_F: Tensor) -> int:
    """Latents that AuxK takes: at most k_aux, and no more than are dead.

    On an accelerator the count would stall the step, so k_aux are taken; the surplus is -inf
    before ReLU and adds exactly zero, hence both ways agree. Raises SpecError where k_aux is not
    resolved.
    """
    return _limit(spec, dead_F) if accelerates(dead_F.device) else exact_width(spec, dead_F)


def exact_width(spec: AuxKSpec, dead_F: Tensor) -> int:
    """The same without surplus on any device; an accelerator is waited for."""
    return min(_limit(spec, dead_F), int(dead_F.sum()))


def _limit(spec: AuxKSpec, dead_F: Tensor) -> int:
    if spec.k_aux is None:
        raise SpecError(
            f"train.{spec.name}.k_aux", "is not resolved", remedy="resolve the spec first"
        )
    return min(spec.k_aux, dead_F.shape[0])


def error_share(residual_BO: Tensor, auxiliary_BO: Tensor) -> Tensor:
    """|e - e_aux|^2 over the variance of e; zero where that is zero, NaN where e is NaN.

    `residual_BO` must be detached by the caller.
    """
    error = (residual_BO - auxiliary_BO).square().sum()
    variance = (residual_BO - residual_BO.mean(dim=0)).square().sum()
    exact = variance == 0
    return torch.where(exact, 0.0, error / torch.where(exact, 1.0, variance))


def dense_term(
    spec: AuxKSpec, h_BF: Tensor, residual_BO: Tensor, W_dec_FO: Tensor, dead_F: Tensor
) -> Tensors:
    """The term of an architecture whose pre-activations [B, F] are in the graph; {} when it is off.

    Gradients reach h and W_dec of dead latents only, for the residual is detached here.
    """
    if not spec.auxk_coefficient:
        return {}
    n_aux = width(spec, dead_F)
    if n_aux == 0:
        return {"auxk": residual_BO.new_zeros(())}
    dead_BF = h_BF.masked_fill(~dead_F, -torch.inf)
    _, indices_BK = largest_first(dead_BF.detach(), n_aux)
    auxiliary_BO = decode(dead_BF.gather(1, indices_BK).relu(), indices_BK, W_dec_FO)
    return {"auxk": spec.auxk_coefficient * error_share(residual_BO.detach(), auxiliary_BO)}
