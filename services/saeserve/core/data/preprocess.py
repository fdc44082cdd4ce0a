"""Centring and scaling of activations (DESIGN section 4: centring precedes scaling)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.data.source import ActivationSource
from saeserve.core.errors import DataError
from saeserve.core.specs.training import PreprocessSpec

_CHUNK_ROWS = 8192


@dataclass(frozen=True)
class Preprocessing:
    """x' = scale · (x − mean_D); `mean_D` is float32 [d]."""

    mean_D: Tensor
    scale: float

    def apply(self, x_BD: Tensor) -> Tensor:
        """Centred and scaled rows, [B, d]; the mean follows the rows' device."""
        return self.scale * (x_BD - self.mean_D.to(x_BD.device))


def fit_preprocessing(source: ActivationSource, spec: PreprocessSpec) -> Preprocessing:
    """Read every row of one epoch: once for the mean, once more for the scale.

    The scale makes the mean of ‖scale · (x − mean)‖ equal √d, the convention of Anthropic
    (Circuits Updates, January 2025: E‖x‖ = √n). Sums are kept in float64.
    Raises DataError where there are no rows or all of them equal their mean.
    """
    if source.rows < 1:
        raise DataError("no training rows are left", remedy="raise norm_cut or add data")
    mean_D = _mean(source) if spec.centre == "mean" else torch.zeros(source.d)
    return Preprocessing(mean_D, _scale(source, mean_D) if spec.scale else 1.0)


def _epoch(source: ActivationSource) -> Iterator[Tensor]:
    """All rows of the first epoch in float64 [., d]; their order does not matter here."""
    for start in range(0, source.rows, _CHUNK_ROWS):
        yield source.batch(start, min(_CHUNK_ROWS, source.rows - start)).double()


def _mean(source: ActivationSource) -> Tensor:
    total_D = torch.zeros(source.d, dtype=torch.float64)
    for x_BD in _epoch(source):
        total_D += x_BD.sum(0)
    return (total_D / source.rows).float()


def _scale(source: ActivationSource, mean_D: Tensor) -> float:
    centre_D = mean_D.double()
    total = sum(float((x_BD - centre_D).square().sum(1).sqrt().sum()) for x_BD in _epoch(source))
    if total <= 0:
        raise DataError(
            "every training row equals the mean, so no scale exists",
            remedy="give rows that differ, or set preprocess.scale = false",
        )
    return math.sqrt(source.d) * source.rows / total
