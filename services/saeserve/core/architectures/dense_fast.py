"""ReLU and gated SAEs whose gradients are taken by hand on a GPU, where Triton is installed.

On the CPU, and with AuxK, they are autograd's.
"""

from __future__ import annotations

from saeserve.core.architectures.contract import Batch, Context, StepOutput, Tensors
from saeserve.core.architectures.gated import Gated
from saeserve.core.architectures.relu import Relu
from saeserve.core.gpu.device import usable_on_device
from saeserve.core.specs.architectures.base import PenaltySpec
from saeserve.core.specs.architectures.gated import GatedSpec
from saeserve.core.specs.architectures.relu import ReluSpec


def possible(spec: PenaltySpec, params: Tensors, batch: Batch) -> bool:
    """Whether the GPU's kernels take this step: without AuxK, on tensors they can run on."""
    tensors = (*params.values(), batch.x_BD, batch.target_BO)
    return spec.gpu_kernels and usable_on_device(*tensors)


class FastRelu(Relu):
    """ReLU with the fast form of the device."""

    def gradients(
        self, spec: ReluSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> StepOutput:
        """Gradients of `loss`: by kernels where they can run, else by autograd."""
        if not possible(spec, params, batch):
            return super().gradients(spec, params, state, batch, ctx)
        # Imports Triton, which is missing elsewhere.
        from saeserve.core.architectures.relu_on_device import relu

        return relu(spec, params, state, batch, ctx)


class FastGated(Gated):
    """The gated SAE with the fast form of the device."""

    def gradients(
        self, spec: GatedSpec, params: Tensors, state: Tensors, batch: Batch, ctx: Context
    ) -> StepOutput:
        """Gradients of `loss`: by kernels where they can run, else by autograd."""
        if not possible(spec, params, batch):
            return super().gradients(spec, params, state, batch, ctx)
        # Imports Triton, which is missing elsewhere.
        from saeserve.core.architectures.gated_on_device import gated

        return gated(spec, params, state, batch, ctx)
