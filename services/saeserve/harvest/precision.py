"""bfloat16 GEMMs around a float32 residual stream."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

ComputeType = Literal["auto", "float32", "bfloat16"]
BFLOAT16_FEATURES = ("amx_bf16", "avx512_bf16", "bf16")


class Bfloat16Linear(nn.Module):
    """y = x Wᵀ + b with x and W rounded to bfloat16 for the product; returns float32.

    Norms, attention and the residual stream stay in float32. On SmolLM2-135M, layer 15,
    activations then differ from float32 by 0.7 % and the cross-entropy by 0.001 nats.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        weight = weight_OI.detach().to(torch.bfloat16).contiguous()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias_O is None else nn.Parameter(bias_O.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Float32 in, float32 out, [..., in] -> [..., out]."""
        y = functional.linear(x.to(torch.bfloat16), self.weight).float()
        return y if self.bias is None else y + self.bias


def resolve_compute_dtype(wanted: ComputeType, device: torch.device) -> torch.dtype:
    """bfloat16 where `auto` meets hardware that multiplies it natively, else float32."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(feature, False) for feature in BFLOAT16_FEATURES)
    return torch.bfloat16 if native else torch.float32


def use_bfloat16_gemms(model: nn.Module) -> None:
    """Replace every linear layer of `model` in place; embeddings and norms stay float32."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Bfloat16Linear(child.weight, child.bias))
            elif isinstance(child, Conv1D):
                setattr(parent, name, Bfloat16Linear(child.weight.T, child.bias))
