"""bfloat16 GEMMs and attention around a float32 residual stream."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface
from transformers.pytorch_utils import Conv1D

BFLOAT16_ATTENTION = "saeserve_bfloat16_sdpa"
"""Name under which transformers knows `_attention`."""


class Bfloat16Linear(nn.Module):
    """y = x Wᵀ + b with x and W rounded to bfloat16 for the product; returns float32.

    Norms and the residual stream stay in float32. With attention in bfloat16 too, activations of
    SmolLM2-135M, layer 15, differ from float32 by 0.6 % and the cross-entropy by 0.001 nats.
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


def use_bfloat16(model: nn.Module) -> None:
    """Change linear layers and attention of `model` in place; all else stays float32."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            # Subclasses are more than a product: routers return what they chose, too.
            if type(child) is nn.Linear:
                setattr(parent, name, Bfloat16Linear(child.weight, child.bias))
            elif isinstance(child, Conv1D):
                setattr(parent, name, Bfloat16Linear(child.weight.T, child.bias))
    pretrained = cast("Any", model)
    if pretrained.config.get_text_config()._attn_implementation == "sdpa":
        pretrained.set_attn_implementation(BFLOAT16_ATTENTION)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: object,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention in bfloat16, returned in float32."""
    halves = (part.to(torch.bfloat16) for part in (query, key, value))
    output = _ATTENTION["sdpa"](module, *halves, attention_mask, **options)[0]
    return output.float(), None


# transformers' registries of attention functions and of the masks that they want.
_ATTENTION = cast("Any", AttentionInterface())
_MASKS = cast("Any", AttentionMaskInterface())
_ATTENTION.register(BFLOAT16_ATTENTION, _attention)
_MASKS.register(BFLOAT16_ATTENTION, _MASKS["sdpa"])
