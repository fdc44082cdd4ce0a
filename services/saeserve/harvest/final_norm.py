"""The scale that a language model's final norm gives each dimension."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn


def final_scale(model: nn.Module, d: int) -> Tensor | None:
    """Weight of the last norm of width d outside the layers, [d]; None where there is none. Norms
    that add 1 to their weight (Gemma's) are seen by what they do to a vector."""
    modules = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    norms = [each for name, each in modules if _outside(name) and _weight(each, d) is not None]
    if not norms:
        return None
    weight = cast("Tensor", _weight(norms[-1], d))
    signs_D = torch.ones(d, device=weight.device)
    signs_D[::2] = -1  # mean 0 and mean square 1: both kinds of norm only scale it
    with torch.no_grad():
        scaled = cast("Tensor", norms[-1](signs_D[None].to(weight.dtype)))[0].float()
    bias = getattr(norms[-1], "bias", None)
    shift = bias.detach().float() if isinstance(bias, Tensor) else torch.zeros_like(signs_D)
    return (scaled - shift) * signs_D


def _outside(name: str) -> bool:
    """Whether a module is in none of the numbered layers."""
    return not any(part.isdigit() for part in name.split("."))


def _weight(module: nn.Module, d: int) -> Tensor | None:
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.shape == (d,):
        return weight
    return None
