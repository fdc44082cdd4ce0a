"""Low precision in GEMMs, where the hardware multiplies it natively."""

from __future__ import annotations

from typing import Literal

import torch

from saeserve.core.gpu.device import runs_kernels
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

    JumpReLU's is exact in kernels, which compute again what rounding could misplace; a GPU has such
    kernels for ReLU and gated SAEs too. Autograd of their losses would take entries at thresholds
    and at the band's edges as they were rounded: it gets float32. A skip connection changes nothing
    of that, for the step that it surrounds is the same.
    """
    if spec.encoder_dtype == "auto" and not _exact(spec, device):
        return torch.float32
    return chosen_dtype(spec.encoder_dtype, device)


def _exact(spec: TrainSpec, device: torch.device) -> bool:
    """Whether active latents stay those of float32 when the encoder multiplies in a lower type."""
    architecture = spec.architecture
    if architecture.exact_choice == "always":
        return True
    if device.type == "cpu":
        return architecture.exact_choice == "compiled" and available()
    return architecture.gpu_kernels and runs_kernels(device)


def chosen_dtype(wanted: ComputeType, device: torch.device) -> torch.dtype:
    """bfloat16 where it is wanted, or where `auto` meets hardware for it; else float32."""
    low = multiplies_bfloat16(device) if wanted == "auto" else wanted == "bfloat16"
    return torch.bfloat16 if low else torch.float32
