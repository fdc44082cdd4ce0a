"""Where a job computes, and how it does so reproducibly."""

from __future__ import annotations

import torch

from saeserve.worker.runners.base import DeviceMissing

CONTEXT_BYTES = 2**30
"""Upper bound of what this process's context takes on a device in addition to its tensors."""


def device_of(resource_class: str) -> torch.device:
    """The device of a resource class. Raises DeviceMissing when torch sees none."""
    if resource_class == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceMissing(resource_class)
    return torch.device("cuda")


def settle_torch(threads: int) -> None:
    """Ask for the same bits every time; `threads` 0 leaves the number to torch."""
    if threads:
        torch.set_num_threads(threads)
    # The debug mode sets the same switch as `use_deterministic_algorithms`, which imports torch's
    # compiler too: two seconds for a setting of code that is never compiled here.
    torch.set_deterministic_debug_mode("warn" if torch.cuda.is_available() else "error")
    # Filling fresh memory would cost time and help only programs that read it uninitialised. The
    # module sets the attribute by a trick that hides it from type checkers.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    # Partial sums in float32: `core.kernels.rounding` bounds the errors of no other ones.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def device_shared() -> bool:
    """Whether other processes hold memory of the device, so that more may be free another time.

    True as well where the device does not answer: then nothing is known.
    """
    try:
        free, total = torch.cuda.mem_get_info()
        own = torch.cuda.memory_reserved()
    except (RuntimeError, AssertionError):
        return True
    return total - free - own > CONTEXT_BYTES
