"""Sums over the steps since the last report, kept on the device until they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from saeserve.core.architectures.contract import Tensors
from saeserve.core.gpu.device import usable_on_device


def _no_sums() -> Tensors:
    return {}


@dataclass(frozen=True)
class Meter:
    """float64 scalars by name; part of the checkpoint, so that a resumed report is the same."""

    sums: Tensors = field(default_factory=_no_sums)

    @classmethod
    def empty(cls) -> Meter:
        """A meter that has seen nothing."""
        return cls()

    def add(self, values: Mapping[str, Tensor | int]) -> None:
        """Add to the sums of these names in place, without synchronisation."""
        known = {name: value for name, value in values.items() if name in self.sums}
        for name in [name for name in values if name not in known]:
            self.sums[name] = torch.as_tensor(values[name]).detach().to(torch.float64, copy=True)
        for name, value in known.items():
            if not isinstance(value, Tensor):
                self.sums[name].add_(value)
        amounts = {n: v.detach().double() for n, v in known.items() if isinstance(v, Tensor)}
        if amounts:
            # One launch on an accelerator.
            sums = [self.sums[name] for name in amounts]
            cast(Any, torch)._foreach_add_(sums, list(amounts.values()))

    def take(self) -> Tensors:
        """All sums, still on the device; they start again."""
        found = dict(self.sums)
        self.sums.clear()
        return found


def spread(target_BO: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of squares (of each column [O] by a GPU's kernels) and sum of rows [O], float64: what
    `variation` needs of a batch."""
    if usable_on_device(target_BO):
        from saeserve.core.gpu.columns import moments

        return moments(target_BO)
    return target_BO.square().sum().double(), target_BO.sum(dim=0).double()


def variation(squares: Tensor, sum_O: Tensor, rows: int) -> Tensor:
    """Sum over rows of |y - mean of the rows|^2, from the sums of `spread` over micro-batches."""
    return squares.sum() - sum_O.square().sum() / rows


def of_batch(squares: Tensor, sum_O: Tensor, fired_F: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """`variation`, and how many entries were active; scalars."""
    if squares.ndim:
        from saeserve.core.gpu import totals

        return totals.batch(squares, sum_O, fired_F, rows)
    return variation(squares, sum_O, rows), fired_F.sum()
