"""Reconstruction and sparsity on raw rows: the numbers of DESIGN section 4, in one pass.

Shape suffixes: B rows, D d_in, F d_sae.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from saeserve.core.errors import DataError, DataMismatchError
from saeserve.core.evaluation.density import Density, DensityBin, density
from saeserve.core.export.inference_model import InferenceModel, SparseRows


@dataclass(frozen=True)
class ReconstructionReport:
    """What a model does on `rows` raw rows."""

    fvu: float
    """Σ‖x − x̂‖² / Σ‖x − mean‖² with the mean of these rows; NaN when they do not vary."""
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
        }


def evaluate_reconstruction(model: InferenceModel, rows: Iterable[Tensor]) -> ReconstructionReport:
    """Stream raw rows [B, d_in] through the model; sums are float64, counts are whole numbers.

    Raises DataMismatchError for a model whose output is not its input, DataError without rows.
    """
    if model.config.d_in != model.config.d_out:
        raise DataMismatchError(
            f"the model maps {model.config.d_in} dimensions to {model.config.d_out}",
            remedy="reconstruction is evaluated for autoencoders only",
        )
    variation, latents, squared_error = Variation(), _Latents(model), 0.0
    for x_BD in rows:
        x_BD = x_BD.to(model.device, torch.float32)
        features = model.encode(x_BD)
        error_BD = x_BD.double() - model.decode(features).double()
        squared_error += float(error_BD.square().sum())
        variation.add(x_BD.double())
        latents.add(features)
    if variation.rows == 0:
        raise DataError("there are no rows to evaluate", remedy="hold more rows out")
    return _report(variation, latents, squared_error)


def _report(variation: Variation, latents: _Latents, squared_error: float) -> ReconstructionReport:
    rows = variation.rows
    histogram: Density = density(latents.fired_F, rows)
    varies = variation.squares > 0
    return ReconstructionReport(
        fvu=squared_error / variation.squares if varies else float("nan"),
        l0=int(latents.fired_F.sum()) / rows,
        silent=histogram.never_fired / latents.fired_F.numel(),
        density=histogram.bins,
        frequency_F=(latents.fired_F.double() / rows).float().cpu(),
        maximum_F=latents.maximum_F.cpu(),
        rows=rows,
    )


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
        self.fired_F += torch.bincount(features.indices, minlength=features.d_sae)
        self.maximum_F.scatter_reduce_(0, features.indices, features.values.abs(), "amax")
