"""The scale that a language model's final norm gives each dimension."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def final_scale(module: nn.Module, d: int) -> Tensor | None:
    """Weight of the last norm of width d outside the layers; None where there is none. Norms that
    add 1 to their weight (Gemma's) are seen by what they do to a vector of ones."""
    norms = [
        each
        for name, each in module.named_modules()
        if not any(part.isdigit() for part in name.split("."))
        and isinstance(getattr(each, "weight", None), Tensor)
        and tuple(each.weight.shape) == (d,)
    ]
    if not norms:
        return None
    signs = torch.ones(1, d, device=norms[-1].weight.device)
    signs[:, ::2] = -1  # mean 0 and mean square 1: both kinds of norm only scale it
    with torch.no_grad():
        bias = getattr(norms[-1], "bias", None)
        scaled = norms[-1](signs.to(norms[-1].weight.dtype)).float()
    return ((scaled - (0 if bias is None else bias.float())) * signs).reshape(-1).detach()
