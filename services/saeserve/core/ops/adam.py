"""Adam without weight decay (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam

from saeserve.core.ops.rows import Tensors


@dataclass(frozen=True)
class AdamSettings:
    """Rates of the moments' averages, and the constant in the denominator."""

    beta1: float
    beta2: float
    eps: float


@dataclass(frozen=True)
class Moments:
    """First and second moments, named as the parameters, in the parameters' type."""

    first: Tensors
    second: Tensors

    @classmethod
    def zeros(cls, params: Tensors) -> Moments:
        """The moments before the first step."""
        first = {name: torch.zeros_like(value) for name, value in params.items()}
        second = {name: torch.zeros_like(value) for name, value in params.items()}
        return cls(first=first, second=second)


def adam_step_(
    params: Tensors,
    gradients: Mapping[str, Tensor],
    moments: Moments,
    settings: AdamSettings,
    *,
    lr: float,
    step: int,
) -> None:
    """Update `params` and `moments` in place; `step` counts from 0."""
    names = list(params)
    # Counted up in place, so one for each; made on the device, for a copy would wait for it.
    counts = torch.full((len(names),), float(step), device=params[names[0]].device)
    adam(
        [params[name] for name in names],
        # The fused kernel takes all memory in the parameter's order, whatever the strides say.
        [gradients[name].contiguous() for name in names],
        [moments.first[name] for name in names],
        [moments.second[name] for name in names],
        [],
        list(counts.unbind()),
        fused=True,
        amsgrad=False,
        beta1=settings.beta1,
        beta2=settings.beta2,
        lr=lr,
        weight_decay=0.0,
        eps=settings.eps,
        maximize=False,
    )
