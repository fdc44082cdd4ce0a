"""Centring and scaling of activations
(docs/DESIGN.md, "Massive activations": centring precedes scaling)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from saeserve.core.data.lane import HostLane, Lane
from saeserve.core.data.source import ActivationSource
from saeserve.core.data.stored import StoredRows, pieces_on_device
from saeserve.core.data.sums import SourceSums
from saeserve.core.formats.manifest import MASSIVE_NORM
from saeserve.core.specs.training import PreprocessSpec
from saeserve.errors import DataError

_CHUNK_ROWS = 8192


class Prepares(Protocol):
    """What is done to rows before the SAE sees them."""

    def apply(self, x_BD: Tensor) -> Tensor:
        """Prepared rows, [B, d], on the rows' device."""
        ...

    def on(self, device: torch.device) -> Prepares:
        """The same with its constants on `device`, so that they are not copied for each batch."""
        ...


@dataclass(frozen=True)
class Preprocessing:
    """x' = scale · (x − mean_D); `mean_D` is float32 [d]."""

    mean_D: Tensor
    scale: float

    @property
    def parts(self) -> tuple[Preprocessing, ...]:
        """Itself: it is that of one source."""
        return (self,)

    def apply(self, x_BD: Tensor) -> Tensor:
        """Centred and scaled rows, [B, d]; the mean follows the rows' device."""
        return self.scale * (x_BD - self.mean_D.to(x_BD.device))

    def on(self, device: torch.device) -> Preprocessing:
        """The same with its mean on `device`."""
        return Preprocessing(self.mean_D.to(device), self.scale)


@dataclass(frozen=True)
class SideBySide:
    """Rows of several sources side by side, each centred and scaled by its own constants."""

    parts: tuple[Preprocessing, ...]

    def apply(self, x_BD: Tensor) -> Tensor:
        """Centred and scaled rows, [B, d]."""
        widths = [part.mean_D.numel() for part in self.parts]
        columns = x_BD.split_with_sizes(widths, dim=1)
        applied = [part.apply(x_Bd) for part, x_Bd in zip(self.parts, columns, strict=True)]
        return applied[0] if len(applied) == 1 else torch.cat(applied, dim=1)

    def on(self, device: torch.device) -> SideBySide:
        """The same with its means on `device`."""
        return SideBySide(tuple(part.on(device) for part in self.parts))


AnyPreprocessing = Preprocessing | SideBySide


def mean_of(preprocessing: AnyPreprocessing) -> Tensor:
    """The sources' means side by side, float32 [d]."""
    return torch.cat([part.mean_D for part in preprocessing.parts])


def from_sums(
    sums: Sequence[SourceSums | None], rows: int, spec: PreprocessSpec
) -> SideBySide | None:
    """What `fit_side_by_side` finds in `rows` rows, by sums of their sources; None where these are
    of other rows, or missing.

    Sums are of a source's training rows up to MASSIVE_NORM medians. The rows that take part are
    among these, or these among them: another cut keeps fewer or more, and of several sources a row
    is kept only where all keep it. So as many rows are the same rows. Several sources with a higher
    cut are the exception, since one may add a row and another take one away.
    Raises DataError as that does.
    """
    mixed = len(sums) > 1 and spec.norm_cut > MASSIVE_NORM
    known = [each for each in sums if each is not None and each.rows == rows]
    if mixed or rows < 1 or len(known) < len(sums):
        return None
    return SideBySide(tuple(_of_sums(each, spec) for each in known))


def _of_sums(sums: SourceSums, spec: PreprocessSpec) -> Preprocessing:
    mean_D, total = sums.mean(), sums.distances
    if spec.centre == "none":
        mean_D, total = torch.zeros_like(mean_D), sums.norms
    norm = spec.mean_norm or math.sqrt(mean_D.numel())
    return Preprocessing(mean_D, _scale(norm, sums.rows, total) if spec.scale else 1.0)


def fit_preprocessing(source: ActivationSource, spec: PreprocessSpec) -> Preprocessing:
    """Fit the preprocessing of one source's rows; see `fit_side_by_side` for several."""
    (only,) = fit_side_by_side(source, (source.d,), spec).parts
    return only


def fit_side_by_side(
    source: ActivationSource, widths: Sequence[int], spec: PreprocessSpec, lane: Lane | None = None
) -> SideBySide:
    """Read every row of one epoch: once for the means, once more for the scales. On the device of
    an asynchronous `lane`, as they lie in their files; else on the CPU, in the stream's order.

    `widths` are those of the sources that stand side by side in the rows; each gets a mean and a
    scale of its own. The scale makes the mean of ‖scale · (x − mean)‖ equal √d, the convention of
    Anthropic (Circuits Updates, January 2025: E‖x‖ = √n), or `spec.mean_norm`. Sums are kept in
    float64.
    Raises DataError where there are no rows, or those of a source all equal their mean.
    """
    if source.rows < 1:
        raise DataError("no training rows are left", remedy="raise norm_cut or add data")
    lane = lane or HostLane()
    mean_D = _mean(source, lane) if spec.centre == "mean" else torch.zeros(source.d)
    norms = [spec.mean_norm or math.sqrt(d) for d in widths]
    scales = _scales(source, lane, mean_D, widths, norms) if spec.scale else [1.0] * len(widths)
    means = mean_D.split_with_sizes(list(widths))
    return SideBySide(tuple(map(Preprocessing, means, scales)))


def _epoch(source: ActivationSource, lane: Lane) -> Iterator[Tensor]:
    """All rows of an epoch in float64 [., d]; their order decides about the last bits at most."""
    if lane.asynchronous and isinstance(source, StoredRows):
        for piece_ND in pieces_on_device(source, lane):
            for start in range(0, len(piece_ND), _CHUNK_ROWS):
                yield piece_ND[start : start + _CHUNK_ROWS].double()
        return
    for start in range(0, source.rows, _CHUNK_ROWS):
        rows_BD = source.batch(start, min(_CHUNK_ROWS, source.rows - start))
        yield rows_BD.to(lane.device).double()


def _mean(source: ActivationSource, lane: Lane) -> Tensor:
    total_D = torch.zeros(source.d, dtype=torch.float64, device=lane.device)
    for x_BD in _epoch(source, lane):
        total_D += x_BD.sum(0)
    return (total_D / source.rows).float().cpu()


def _scales(
    source: ActivationSource,
    lane: Lane,
    mean_D: Tensor,
    widths: Sequence[int],
    norms: Sequence[float],
) -> list[float]:
    # Moved once: a copy for each block would wait for the device.
    centre_D = mean_D.to(lane.device, torch.float64)
    sums = torch.zeros(len(widths), dtype=torch.float64, device=lane.device)
    for x_BD in _epoch(source, lane):
        centred_BD = x_BD - centre_D
        columns = centred_BD.square().split_with_sizes(list(widths), dim=1)
        for index, squares_Bd in enumerate(columns):
            sums[index] += squares_Bd.sum(1).sqrt().sum()
    totals = [float(total) for total in sums]
    return [_scale(norm, source.rows, total) for norm, total in zip(norms, totals, strict=True)]


def _scale(norm: float, rows: int, total: float) -> float:
    if total <= 0:
        raise DataError(
            "every training row equals the mean, so no scale exists",
            remedy="give rows that differ, or set preprocess.scale = false",
        )
    return norm * rows / total
