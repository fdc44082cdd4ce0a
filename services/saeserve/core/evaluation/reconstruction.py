"""Reconstruction and sparsity on raw rows: the numbers of
docs/DESIGN.md, "Definitions", in one pass.

Shape suffixes: B rows, C their columns, D d_in, O d_out, F d_sae.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.evaluation.density import Density, DensityBin, density
from saeserve.core.export.inference_model import InferenceModel, SparseRows
from saeserve.core.formats.model import ModelConfig, TensorSource
from saeserve.errors import DataError, DataMismatchError


@dataclass(frozen=True)
class ReconstructionReport:
    """What a model does on `rows` raw rows."""

    fvu: float
    """Σ‖y − ŷ‖² / Σ‖y − mean‖² with the mean of these rows; NaN when they do not vary."""
    l0: float
    """Mean number of non-zero latents a row."""
    silent: float
    """Share of latents that fired on none of the rows."""
    density: tuple[DensityBin, ...]
    """Histogram of log10 frequency of the latents that fired."""
    frequency_F: Tensor
    """float32 [F], on the CPU: share of rows in which a latent fires."""
    maximum_F: Tensor
    """float32 [F], on the CPU: largest magnitude of a latent, 0 where it never fires."""
    rows: int
    fvu_by_source: Mapping[str, float]
    """fvu of each source that the model writes: a crosscoder's may differ by orders in scale."""

    @property
    def explained_variance(self) -> float:
        """1 − fvu."""
        return 1 - self.fvu

    def metrics(self) -> dict[str, float]:
        """The scalar figures by name."""
        return {
            "fvu": self.fvu,
            "explained_variance": self.explained_variance,
            "l0": self.l0,
            "silent_on_heldout": self.silent,
            "heldout_rows": float(self.rows),
            **self._by_source(),
        }

    def _by_source(self) -> dict[str, float]:
        several = len(self.fvu_by_source) > 1
        return {f"fvu_{name}": fvu for name, fvu in self.fvu_by_source.items() if several}


Watch = Callable[[Tensor, Tensor, SparseRows], None]
"""Gets target and error [B, O], float64, and features of each batch."""


def evaluate_reconstruction(
    model: InferenceModel, rows: Iterable[Tensor], watch: Watch | None = None
) -> ReconstructionReport:
    """Stream raw rows [B, C] through the model; sums are float64, counts are whole numbers.

    C is d_in; where the target is another source, its d_out columns follow. `watch` sees each
    batch.
    Raises DataMismatchError for rows of another width, DataError without rows.
    """
    outputs = [_Output(source) for source in model.config.outputs]
    latents = _Latents(model)
    for rows_BC in rows:
        x_BD, target_BO = _split(rows_BC.to(model.device, torch.float32), model.config)
        features = model.encode(x_BD)
        target_BO = target_BO.double()
        error_BO = target_BO - model.decode(features, x_BD).double()
        for output in outputs:
            output.add(target_BO, error_BO)
        latents.add(features)
        if watch is not None:
            watch(target_BO, error_BO, features)
    if outputs[0].variation.rows == 0:
        raise DataError("there are no rows to evaluate", remedy="hold more rows out")
    return _report(outputs, latents)


def _split(rows_BC: Tensor, config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Input and target of rows."""
    if rows_BC.shape[1] != config.row_width:
        raise DataMismatchError(
            f"rows of width {rows_BC.shape[1]} do not fit a model that maps {config.d_in} "
            f"dimensions to {config.d_out}",
            remedy="give the model's inputs, and a transcoder's target after them",
        )
    target_BO = rows_BC[:, config.d_in :] if config.transcodes else rows_BC
    return rows_BC[:, : config.d_in], target_BO


def _report(outputs: Sequence[_Output], latents: _Latents) -> ReconstructionReport:
    rows = outputs[0].variation.rows
    histogram: Density = density(latents.fired_F, rows)
    return ReconstructionReport(
        fvu=_fvu(outputs),
        fvu_by_source={output.source.name: _fvu([output]) for output in outputs},
        l0=int(latents.fired_F.sum()) / rows,
        silent=histogram.never_fired / latents.fired_F.numel(),
        density=histogram.bins,
        frequency_F=(latents.fired_F.double() / rows).float().cpu(),
        maximum_F=latents.maximum_F.cpu(),
        rows=rows,
    )


def _fvu(outputs: Sequence[_Output]) -> float:
    """FVU of the sources' columns together; NaN when they do not vary."""
    squares = sum(output.variation.squares for output in outputs)
    return sum(output.squared_error for output in outputs) / squares if squares > 0 else math.nan


class _Output:
    """Error and variation of one of the sources that a model writes."""

    def __init__(self, source: TensorSource) -> None:
        self.source = source
        self.variation = Variation()
        self.squared_error = 0.0

    def add(self, target_BO: Tensor, error_BO: Tensor) -> None:
        columns = slice(self.source.offset, self.source.offset + self.source.d)
        self.squared_error += float(error_BO[:, columns].square().sum())
        self.variation.add(target_BO[:, columns])


class Variation:
    """Σ‖x − mean‖² of all rows so far, merged batch by batch (Chan, Golub, LeVeque 1979).

    Never the difference of two large sums: activations sit far from the origin.
    """

    def __init__(self) -> None:
        """Nothing so far."""
        self.rows = 0
        self.squares = 0.0
        self._mean_D = torch.zeros(())

    def add(self, x_BD: Tensor) -> None:
        """Take in float64 rows [B, D]."""
        count = x_BD.shape[0]
        if count == 0:
            return
        mean_D = x_BD.mean(dim=0)
        shift_D = mean_D - self._mean_D
        total = self.rows + count
        between = float(shift_D.square().sum()) * self.rows * count / total
        self.squares += float((x_BD - mean_D).square().sum()) + between
        self._mean_D = self._mean_D + shift_D * (count / total)
        self.rows = total


class _Latents:
    """Firing counts and maxima."""

    def __init__(self, model: InferenceModel) -> None:
        d_sae = model.config.d_sae
        self.fired_F = torch.zeros(d_sae, dtype=torch.int64, device=model.device)
        self.maximum_F = torch.zeros(d_sae, device=model.device)

    def add(self, features: SparseRows) -> None:
        self.fired_F += torch.bincount(features.latents, minlength=features.d_sae)
        self.maximum_F.scatter_reduce_(0, features.latents, features.values.abs(), "amax")
