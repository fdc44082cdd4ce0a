"""Tier 0: figures of held-out rows with their intervals, in the pass that reconstructs them.

Shape suffixes: B rows of a batch, O d_out, F d_sae, G groups of units, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saeserve.core.data.dataset import HeldoutRows
from saeserve.core.evaluation.bootstrap import CONFIDENCE, UnitSums, bounds, drawn
from saeserve.core.evaluation.duplicates import DUPLICATE_COSINE, nearest_cosines
from saeserve.core.evaluation.metric import Measured, Metric, known
from saeserve.core.export.inference_model import InferenceModel, SparseRows

RUN_ROWS = 256
"""Rows without a sequence are resampled in runs of so many, as they are held out."""
_GROUPS, _DENSITY_RESAMPLES = 50, 200
"""Densities of all latents are kept for groups of units, and drawn less often: they are many."""
_COLUMNS = ("rows", "error", "variation", "cosine", "active")


class RowMetrics:
    """Sums of one pass over held-out rows."""

    def __init__(self, model: InferenceModel, mean_O: Tensor, seed: int) -> None:
        """`mean_O` is float64 [d_out]: the mean of all rows of the pass."""
        self._model, self._seed = model, seed
        self._mean_O = mean_O.to(model.device)
        self._sums = UnitSums(_COLUMNS)
        self._units: NDArray[np.int64] = np.zeros(0, np.int64)
        self._seen = 0
        self._fired_GF = torch.zeros(_GROUPS, model.config.d_sae, dtype=torch.int32)

    def passing(self, blocks: Iterable[HeldoutRows]) -> Iterator[Tensor]:
        """Rows of the blocks for `evaluate_reconstruction`, whose units are kept for `watch`."""
        for block in blocks:
            rows = np.arange(self._seen, self._seen + len(block.sequence))
            self._units = np.where(
                block.sequence >= 0, block.sequence, -1 - rows // RUN_ROWS
            ).astype(np.int64)
            self._seen += len(rows)
            yield block.x_BD

    def watch(self, target_BO: Tensor, error_BO: Tensor, features: SparseRows) -> None:
        """Take in what was made of the rows that were passed last; both float64."""
        made_BO = target_BO - error_BO
        ones_B = torch.ones(len(target_BO), dtype=torch.float64)
        values = {
            "rows": ones_B,
            "error": error_BO.square().sum(dim=1),
            "variation": (target_BO - self._mean_O).square().sum(dim=1),
            "cosine": torch.cosine_similarity(target_BO, made_BO, dim=1, eps=1e-30),
            "active": features.offsets.diff().double(),
        }
        columns = {name: value.cpu().numpy() for name, value in values.items()}
        self._count(self._sums.add(self._units, columns), features)

    def metrics(self) -> list[Metric]:
        """All of tier 0."""
        measured = Measured(self._sums.sample(), "rows", "rows", self._seed)
        scalars = [
            measured.metric("fvu", "ratio", lambda s: s["error"] / s["variation"]),
            measured.metric("cosine", "cosine", lambda s: s["cosine"] / s["rows"]),
            measured.metric("l0", "latents", lambda s: s["active"] / s["rows"]),
        ]
        return known([*scalars, *self._densities(), *self._dead(), *self._duplicates()])

    def _count(self, place_B: NDArray[np.int64], features: SparseRows) -> None:
        rows_N = features.row_of_entry.cpu()
        group_N = torch.as_tensor(place_B % _GROUPS)[rows_N]
        flat_N = group_N * features.d_sae + features.latents.cpu()
        counts = torch.bincount(flat_N, minlength=self._fired_GF.numel())
        self._fired_GF += counts.view_as(self._fired_GF).int()

    def _densities(self) -> list[Metric]:
        rows_U = self._sums.sample().columns["rows"]
        rows_G = np.bincount(np.arange(len(rows_U)) % _GROUPS, rows_U, minlength=_GROUPS)
        groups = min(len(rows_U), _GROUPS)
        fired_GF = self._fired_GF[:groups].double().numpy()
        weights_RG = drawn(groups, self._seed, _DENSITY_RESAMPLES)
        resampled = [
            _shape(weights_G @ fired_GF / (weights_G @ rows_G[:groups])) for weights_G in weights_RG
        ]
        found = _shape(fired_GF.sum(axis=0) / rows_G.sum())
        return [
            self._metric(name, unit, found[name], bounds(np.array(drawn_R), groups))
            for (name, unit), drawn_R in zip(
                _SHAPES.items(),
                zip(*(each.values() for each in resampled), strict=True),
                strict=True,
            )
        ]

    def _dead(self) -> list[Metric]:
        rows = self._seen
        dead = float((self._fired_GF.sum(dim=0) == 0).double().mean())
        # A latent of this density stays silent on all rows with probability 1 - CONFIDENCE.
        bound = 1 - (1 - CONFIDENCE) ** (1 / rows)
        return [
            self._metric("dead_at_n", "share of latents", dead),
            self._metric("dead_density_bound", "share of rows", bound),
        ]

    def _duplicates(self) -> list[Metric]:
        nearest_N = nearest_cosines(self._model.W_dec, self._seed).cpu()
        if not len(nearest_N):
            return []
        share = float((nearest_N > DUPLICATE_COSINE).double().mean())
        found = (
            ("duplicate_latents", "share of latents", share),
            ("nearest_decoder_cosine", "cosine", float(nearest_N.median())),
        )
        return [
            Metric(name, f"{name}/1", value, unit, len(nearest_N), "latents", self._seed)
            for name, unit, value in found
        ]

    def _metric(
        self, name: str, unit: str, value: float,
        interval: tuple[float | None, float | None] = (None, None),
    ) -> Metric:  # fmt: skip
        return Metric(name, f"{name}/1", value, unit, self._seen, "rows", self._seed, *interval)


_SHAPES = {
    "density_p05": "share of rows",
    "density_p50": "share of rows",
    "density_p95": "share of rows",
    "density_above_1_percent": "share of latents",
    "density_above_10_percent": "share of latents",
}


def _shape(density_F: NDArray[np.float64]) -> dict[str, float]:
    """How the latents' firing frequencies are spread."""
    p05, p50, p95 = (float(each) for each in np.quantile(density_F, [0.05, 0.5, 0.95]))
    above = [float((density_F > share).mean()) for share in (0.01, 0.1)]
    return dict(zip(_SHAPES, (p05, p50, p95, *above), strict=True))
