"""AuxK: the residual rebuilt from dead latents (Gao et al. 2024, arXiv 2406.04093, section A.2).

The residual e is detached, auxiliary activations are ReLUs of the pre-activations of the row's
k_aux largest dead latents, and |e - e_aux|^2 is divided by the variance of e. Any architecture
may add it; what counts as a pre-activation is the architecture's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saeserve.core.architectures.active.latents import decode
from saeserve.core.architectures.active.preactivations import largest_first
from saeserve.core.architectures.contract import Context, Recordable, Tensors
from saeserve.core.gpu.device import accelerates
from saeserve.core.specs.architectures.base import AuxKSpec
from saeserve.errors import SpecError


@dataclass(frozen=True)
class Taken:
    """Which latents AuxK takes of each row."""

    dead_F: Tensor
    latents: int
    """So many of the dead latents, or all of them where they are fewer; 0 leaves AuxK out."""
    listed: int | None
    """Dead latents are listed in so many places, which they may not fill; None to count them."""


def taken(spec: AuxKSpec, ctx: Context) -> Taken:
    """What AuxK takes where it works on a list of the dead latents.

    With `ctx.dead_bound` the host never waits for the device; without it, it does so to count the
    dead. Raises SpecError where k_aux is not resolved.
    """
    limit = _limit(spec, ctx.dead_F)
    if ctx.dead_bound is None:
        return Taken(ctx.dead_F, min(limit, int(ctx.dead_F.sum())), None)
    listed = capacity(ctx.dead_bound, ctx.dead_F.shape[0])
    return Taken(ctx.dead_F, min(limit, listed), listed)


def width(spec: AuxKSpec, dead_F: Tensor, dead_bound: int | None = None) -> int:
    """Latents that AuxK takes of each row: at most k_aux, and no more than are dead.

    On an accelerator the count would stall the step, so as many as `dead_bound` allows are taken,
    k_aux without it; the surplus is -inf before ReLU and adds exactly zero, hence all ways agree.
    Raises SpecError where k_aux is not resolved.
    """
    limit = _limit(spec, dead_F)
    if dead_bound is not None:
        return min(limit, capacity(dead_bound, dead_F.shape[0]))
    return limit if accelerates(dead_F.device) else min(limit, int(dead_F.sum()))


def capacity(dead_bound: int, latents: int) -> int:
    """The next power of two, at most all `latents`; 0 for 0. So few sizes occur that each may have
    launches, or a graph of launches, of its own."""
    return min(latents, 1 << (dead_bound - 1).bit_length()) if dead_bound > 0 else 0


def recordable(spec: AuxKSpec, ctx: Context, numbers: Mapping[str, float]) -> Recordable | None:
    """`Architecture.recordable` where gradients read `numbers` and, apart from AuxK, no step: the
    bound on the dead latents is as in all steps that take as many."""
    if ctx.dead_bound is None:
        return None
    bound = capacity(ctx.dead_bound, ctx.dead_F.shape[0]) if spec.auxk_coefficient else 0
    return Recordable(replace(ctx, step=0, dead_bound=bound), numbers)


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


def where_dead(share: Tensor, dead_F: Tensor) -> Tensor:
    """The share, or zero where no latent is dead, though some might have been: as if counted."""
    return torch.where(dead_F.any(), share, 0.0)


def dense_term(
    spec: AuxKSpec,
    h_BF: Tensor,
    residual_BO: Tensor,
    W_dec_FO: Tensor,
    dead_F: Tensor,
    dead_bound: int | None = None,
) -> Tensors:
    """The term of an architecture whose pre-activations [B, F] are in the graph; {} when it is off.

    Gradients reach h and W_dec of dead latents only, for the residual is detached here.
    `dead_bound` is the Context's.
    """
    if not spec.auxk_coefficient:
        return {}
    n_aux = width(spec, dead_F, dead_bound)
    if n_aux == 0:
        return {"auxk": residual_BO.new_zeros(())}
    dead_BF = h_BF.masked_fill(~dead_F, -torch.inf)
    _, indices_BK = largest_first(dead_BF.detach(), n_aux)
    auxiliary_BO = decode(dead_BF.gather(1, indices_BK).relu(), indices_BK, W_dec_FO)
    share = where_dead(error_share(residual_BO.detach(), auxiliary_BO), dead_F)
    return {"auxk": spec.auxk_coefficient * share}
