"""Low precision in GEMMs, where the hardware multiplies it natively."""

from __future__ import annotations

from typing import Literal

import torch

from saeserve.core.kernels.compiled import available
from saeserve.core.specs.training import TrainSpec

ComputeType = Literal["auto", "float32", "bfloat16"]
BFLOAT16_FEATURES = ("amx_bf16", "avx512_bf16", "bf16")
"""Names of torch's CPU capabilities, the last one Arm's."""


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether `device` has instructions for it; elsewhere it is slower than float32. The meta
    device stands for a GPU that has."""
    if device.type == "meta":
        return True
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(feature, False) for feature in BFLOAT16_FEATURES)


def encoder_dtype(spec: TrainSpec, device: torch.device) -> torch.dtype:
    """Type of a run's encoder GEMM: `auto` is low only where the choice of latents stays exact.

    JumpReLU's is exact in kernels, which list what rounding could misplace. Autograd of its loss
    would take entries at thresholds and at the band's edges as they were rounded: it gets float32.
    A step that a skip connection surrounds is always autograd's.
    """
    wanted, exact = spec.encoder_dtype, spec.architecture.exact_choice
    compiled = available() and device.type == "cpu" and not spec.skip_connection
    if wanted == "auto" and (exact == "never" or (exact == "compiled" and not compiled)):
        return torch.float32
    return chosen_dtype(wanted, device)


def chosen_dtype(wanted: ComputeType, device: torch.device) -> torch.dtype:
    """bfloat16 where it is wanted, or where `auto` meets hardware for it; else float32."""
    low = multiplies_bfloat16(device) if wanted == "auto" else wanted == "bfloat16"
    return torch.bfloat16 if low else torch.float32
