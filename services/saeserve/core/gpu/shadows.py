"""Low-precision copies of weights, kept from one step to the next.

A copy belongs to one tensor and goes with it. It holds as long as the tensor does not change, which
torch counts; the optimiser's pass writes both. So checkpoints need no copies: after a resume, or
where anything else has changed the weights, the next product makes its copy again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

LOW = torch.float16
"""Its errors are an eighth of bfloat16's. A number that it cannot hold makes the bound on the
errors infinite, and then all that could be chosen is computed in float32."""


@dataclass
class Shadow:
    """A matrix in `LOW`, and norms that bound what its products lose."""

    low_FD: Tensor
    norms_4F: Tensor
    """The following four, in memory one behind the other."""
    norm_F: Tensor
    """Norm of each row."""
    lost_F: Tensor
    """Norm of what rounding took away from it."""
    fourth_F: Tensor
    """4-norm of each row, (sum of w^4)^(1/4)."""
    lost_fourth_F: Tensor
    """4-norm of what rounding took away from it."""
    version: int = -1
    """Version of the weights that were rounded; -1 before any were."""

    @classmethod
    def like(cls, weights_FD: Tensor) -> Shadow:
        """Memory for the copy of a matrix."""
        norms_4F = weights_FD.new_empty(4, weights_FD.shape[0])
        norm_F, lost_F, fourth_F, lost_fourth_F = norms_4F
        low_FD = torch.empty_like(weights_FD, dtype=LOW)
        return cls(low_FD, norms_4F, norm_F, lost_F, fourth_F, lost_fourth_F)

    def holds(self, weights_FD: Tensor) -> bool:
        """Whether it is the copy of what the weights are now."""
        return self.version == version_of(weights_FD)

    def made_of(self, weights_FD: Tensor) -> None:
        """Note that a kernel has written the copy of what the weights are now."""
        self.version = version_of(weights_FD)


_shadows: Any = WeakTensorKeyDictionary()


def known(weights_FD: Tensor) -> Shadow | None:
    """The copy of a matrix that some product has asked for, which may be out of date."""
    found: Shadow | None = _shadows.get(weights_FD)
    return found


def of(weights_FD: Tensor) -> Shadow:
    """The copy of a matrix, which may be out of date or not be written yet."""
    found = known(weights_FD)
    if found is None:
        found = _shadows[weights_FD] = Shadow.like(weights_FD)
    return found


def version_of(tensor: Tensor) -> int:
    """How often torch's operations have changed the tensor in place."""
    version: int = cast("Any", tensor)._version
    return version


def written(parameters: Iterable[Tensor], others: Iterable[Tensor]) -> None:
    """Note that a graph of kernels has changed all of these, and written the copies of
    parameters: torch counts no replay."""
    changed = list(parameters)
    torch.autograd.graph.increment_version([*changed, *others])
    for tensor in changed:
        copy = known(tensor)
        if copy is not None:
            copy.made_of(tensor)
