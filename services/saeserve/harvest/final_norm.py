"""What a language model's final norm does to a vector, but for the division by its size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

_NOTHING = 1e-3
"""What is left of a vector that a norm centres, next to its scale; rounding is far below."""


class FinalNorm(NamedTuple):
    """The linear part of a norm: x becomes scale_D · x, without x's mean where it `centres`."""

    scale_D: Tensor
    centres: bool

    def folded(self, weight_VD: Tensor) -> Tensor:
        """[V, d], which makes of x what `weight_VD` makes of the norm's output."""
        scaled_VD = weight_VD * self.scale_D
        return scaled_VD - scaled_VD.mean(1, keepdim=True) if self.centres else scaled_VD


def final_norm(model: nn.Module, d: int) -> FinalNorm | None:
    """The last norm of width d outside the layers; None where there is none. What it does is seen
    on two vectors: norms may add 1 to their weight (Gemma's) or take the mean off."""
    modules = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    norms = [each for name, each in modules if _outside(name) and _weight(each, d) is not None]
    if not norms:
        return None
    weight = cast("Tensor", _weight(norms[-1], d))
    signs_D = torch.ones(d, device=weight.device)
    signs_D[::2] = -1  # mean 0 and mean square 1: both kinds of norm only scale it
    both_2D = torch.stack([signs_D, torch.ones_like(signs_D)]).to(weight.dtype)
    bias = getattr(norms[-1], "bias", None)
    with torch.no_grad():
        signed_D, constant_D = cast("Tensor", norms[-1](both_2D)).float()
    shift = bias.detach().float() if isinstance(bias, Tensor) else torch.zeros_like(signs_D)
    scale_D = (signed_D - shift) * signs_D
    centres = bool((constant_D - shift).abs().max() < _NOTHING * scale_D.abs().max())
    return FinalNorm(scale_D, centres)


def _outside(name: str) -> bool:
    """Whether a module is in none of the numbered layers."""
    return not any(part.isdigit() for part in name.split("."))


def _weight(module: nn.Module, d: int) -> Tensor | None:
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.shape == (d,):
        return weight
    return None
