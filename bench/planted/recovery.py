"""How much of a planted dictionary a trained one recovers.

Definitions are SynthSAEBench's (arXiv 2602.14687), so that figures compare. No threshold is tuned
anywhere: a latent counts as firing where its feature is not zero, in the form that is exported.
Shape suffixes: B rows, D dimensions, F latents, G true features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from bench.planted.truth import TrueRows
from numpy.typing import NDArray
from torch import Tensor

from saeserve.core.evaluation.reconstruction import Variation
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.ops import sparse
from saeserve.errors import DataError, DataMismatchError

Matching = Callable[
    [NDArray[np.float64]], tuple[NDArray[np.signedinteger], NDArray[np.signedinteger]]
]
"""Rows and columns of the one-to-one assignment of least total cost: the signature of
`scipy.optimize.linear_sum_assignment`, which the caller brings."""


@dataclass(frozen=True)
class Dictionary:
    """A trained dictionary of any library, as its users run it."""

    directions_FD: Tensor
    """Decoder rows, of any length."""
    encode: Callable[[Tensor], Tensor]
    """Raw rows [B, D] to features [B, F]."""
    decode: Callable[[Tensor], Tensor]
    """Features [B, F] to reconstructed rows [B, D]."""

    @classmethod
    def of(cls, model: InferenceModel) -> Dictionary:
        """One of our exports."""
        return cls(model.W_dec, model.encode_dense, lambda f_BF: f_BF @ model.W_dec + model.b_dec)


@dataclass(frozen=True)
class Recovery:
    """What was recovered; every figure but `l0` and `true_l0` lies in 0 .. 1."""

    mcc: float
    """Mean |cosine| of decoder rows and true directions, matched one to one for its sum."""
    f1: float
    """Mean over latents, silent ones counting 0, of the harmonic mean of precision and recall
    with which a latent's firing tells that of the true feature of largest |cosine| to it."""
    precision: float
    recall: float
    uniqueness: float
    """Distinct true features that are nearest to some latent, over the number of latents."""
    silent: float
    """Share of latents that fired on none of the rows."""
    explained_variance: float
    """1 − Σ‖x − x̂‖² / Σ‖x − mean‖²."""
    l0: float
    """Mean number of latents that fire in a row."""
    true_l0: float
    """Mean number of true features that fire in a row."""
    rows: int

    def metrics(self) -> dict[str, float]:
        """The figures by name."""
        return dataclasses.asdict(self)


def recovery(
    dictionary: Dictionary, directions_GD: Tensor, blocks: Iterable[TrueRows], matching: Matching
) -> Recovery:
    """Compare with the truth in one pass over `blocks`.

    Raises DataMismatchError for directions of another width, DataError without rows.
    """
    cosine_FG = absolute_cosines(dictionary.directions_FD, directions_GD)
    nearest_F = cosine_FG.argmax(dim=1)
    counts = Counts.none(nearest_F.numel())
    variation, squared_error, firing = Variation(), 0.0, 0
    for block in blocks:
        f_BF = dictionary.encode(block.x_BD)
        squared_error += float((block.x_BD.double() - dictionary.decode(f_BF)).square().sum())
        variation.add(block.x_BD.double())
        true_BG = sparse.to_dense(block.features) > 0
        firing += int(true_BG.sum())
        counts.add(f_BF != 0, true_BG[:, nearest_F])
    if variation.rows == 0:
        raise DataError("there are no rows to compare on", remedy="give at least one block")
    precision_F, recall_F, f1_F = counts.scores()
    return Recovery(
        mcc=mean_correlation(cosine_FG, matching),
        f1=float(f1_F.mean()),
        precision=float(precision_F.mean()),
        recall=float(recall_F.mean()),
        uniqueness=np.unique(nearest_F.numpy()).size / nearest_F.numel(),
        silent=float((counts.fired_F == 0).double().mean()),
        explained_variance=1 - squared_error / variation.squares,
        l0=int(counts.fired_F.sum()) / variation.rows,
        true_l0=firing / variation.rows,
        rows=variation.rows,
    )


def absolute_cosines(rows_FD: Tensor, directions_GD: Tensor) -> Tensor:
    """|cosine| of every pair, float64 [F, G]; 0 for a row of length 0.

    Raises DataMismatchError where widths differ.
    """
    if rows_FD.shape[1] != directions_GD.shape[1]:
        raise DataMismatchError(
            f"decoder rows are {rows_FD.shape[1]} wide, true directions {directions_GD.shape[1]}",
            remedy="compare with the truth that the rows were drawn from",
        )
    cosine_FG = _units(rows_FD) @ _units(directions_GD).T
    return cosine_FG.abs().clamp_max(1.0)


def mean_correlation(cosine_FG: Tensor, matching: Matching) -> float:
    """MCC: mean |cosine| of the min(F, G) pairs whose sum is largest (arXiv 2505.20254)."""
    cosines = cosine_FG.cpu().numpy()
    rows, columns = matching(-cosines)
    return float(cosines[rows, columns].mean())


@dataclass
class Counts:
    """In how many rows each latent fired, its true feature fired, and both did; int64 [F]."""

    fired_F: Tensor
    true_F: Tensor
    both_F: Tensor

    @classmethod
    def none(cls, latents: int) -> Counts:
        """Before the first row."""
        return cls(*(torch.zeros(latents, dtype=torch.int64) for _ in range(3)))

    def add(self, fires_BF: Tensor, true_BF: Tensor) -> None:
        """Count rows; both are bool [B, F]."""
        self.fired_F += fires_BF.sum(dim=0)
        self.true_F += true_BF.sum(dim=0)
        self.both_F += (fires_BF & true_BF).sum(dim=0)

    def scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """(precision, recall, F1) of every latent, float64 [F]; 0 where nothing was to count."""
        both_F = self.both_F.double()
        precision_F = both_F / self.fired_F.clamp_min(1)
        recall_F = both_F / self.true_F.clamp_min(1)
        f1_F = 2 * both_F / (self.fired_F + self.true_F).clamp_min(1)
        return precision_F, recall_F, f1_F


def _units(rows_ND: Tensor) -> Tensor:
    rows_ND = rows_ND.detach().double().cpu()
    length_N1 = rows_ND.square().sum(dim=1, keepdim=True).sqrt()
    return rows_ND / length_N1.clamp_min(torch.finfo(torch.float64).tiny)
