"""How an SAE of ours and one of another library are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

LIMIT = 1e-5
"""Of the largest value of each row."""
ROWS = 512


@dataclass(frozen=True)
class Outcome:
    """A line of the table; a difference of None says that the export was refused, as it must."""

    direction: str
    library: str
    form: str
    features: float | None = None
    reconstruction: float | None = None
    note: str = ""

    @property
    def passes(self) -> bool:
        differences = (self.features, self.reconstruction)
        return all(value is None or value <= LIMIT for value in differences)


@dataclass(frozen=True)
class Functions:
    """Rows to dense features, and rows to their reconstruction."""

    encode: Callable[[Tensor], Tensor]
    reconstruct: Callable[[Tensor], Tensor]


def rows(d: int, seed: int = 7) -> Tensor:
    """Raw rows away from the origin, as activations are."""
    draws = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(ROWS, d, generator=draws) + 2 * torch.randn(d, generator=draws)


def difference(got: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest value of its row; shapes must be equal."""
    if got.shape != expected.shape:
        raise ValueError(f"{list(got.shape)} against {list(expected.shape)}")
    largest = expected.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
    return float(((got.double() - expected.double()).abs() / largest).max())


def compare(ours: Functions, theirs: Functions, x_BD: Tensor) -> tuple[float, float]:
    """Differences of features and of reconstructions; features that never fire prove nothing."""
    with torch.no_grad():
        expected_BF = theirs.encode(x_BD)
        if not bool((expected_BF != 0).any()):
            raise ValueError("the other library's features are all zero")
        features = difference(ours.encode(x_BD), expected_BF)
        return features, difference(ours.reconstruct(x_BD), theirs.reconstruct(x_BD))
