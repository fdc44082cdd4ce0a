"""Where features fire most: rows by document, sequence and position; the text is the caller's.

Shape suffixes: F d_sae, N entries (one firing of one latent).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saeserve.core.data.dataset import HeldoutRows
from saeserve.core.export.inference_model import InferenceModel, SparseRows
from saeserve.errors import DataError, SpecError

FREQUENCY_RANGE = (1e-4, 2e-2)
"""Rarer latents have too few rows to show, more frequent ones rarely mean one thing."""


class Hit(NamedTuple):
    """One firing; `sequence` and `position` are -1 where the data set does not know them."""

    activation: float
    document: int
    sequence: int
    position: int


@dataclass(frozen=True)
class FeatureHits:
    """A feature, the share of rows in which it fires, and its strongest hits, strongest first."""

    feature: int
    frequency: float
    hits: list[Hit]


def top_contexts(
    model: InferenceModel,
    rows: Iterable[HeldoutRows],
    features: Sequence[int] | int,
    per_feature: int,
) -> list[FeatureHits]:
    """The `per_feature` strongest hits of each feature, at most one a sequence, in one pass.

    `features` are the latents to show, or how many to choose: then those that fire in 1e-4 to
    2e-2 of the rows and in at least `per_feature` sequences, ranked by their mean activation where
    they fire (largest first, then lower index), no two of which share a hit, for features that
    fire on the same rows show the same thing; fewer come back where fewer qualify. Equal
    activations keep the order of the rows. Keeps d_sae · per_feature hits at most.
    Raises SpecError for numbers out of range, DataError without rows.
    """
    _check(model, features, per_feature)
    collected = _Collected(model, None if isinstance(features, int) else features, per_feature)
    for block in rows:
        collected.add(block)
    if collected.rows == 0:
        raise DataError("there are no rows to take contexts from", remedy="hold more rows out")
    wanted = collected.interesting(features) if isinstance(features, int) else list(features)
    return [collected.of(feature) for feature in wanted]


_HIT = np.dtype(
    [
        ("feature", np.int64),
        ("activation", np.float32),
        ("document", np.int64),
        ("sequence", np.int64),
        ("position", np.int64),
        ("row", np.int64),
    ]
)
_Hits = npt.NDArray[np.void]
"""Records of _HIT; once kept, ordered by feature, then strength, then row."""


class _Collected:
    """Firing counts, sums of activations, and the best hits so far."""

    def __init__(
        self, model: InferenceModel, features: Sequence[int] | None, per_feature: int
    ) -> None:
        d_sae = model.config.d_sae
        self.rows = 0
        self._model = model
        self._per_feature = per_feature
        self._shown_F = torch.full((d_sae,), features is None)
        if features is not None:
            self._shown_F[torch.tensor(features, dtype=torch.int64)] = True
        self._fired_F = torch.zeros(d_sae, dtype=torch.int64)
        self._total_F = torch.zeros(d_sae, dtype=torch.float64)
        self._best: _Hits = np.zeros(0, _HIT)

    def add(self, block: HeldoutRows) -> None:
        """Count a block of rows and keep the strongest hits."""
        features = self._model.encode(block.x_BD).to(torch.device("cpu"))
        self._fired_F += torch.bincount(features.latents, minlength=features.d_sae)
        self._total_F.index_add_(0, features.latents, features.values.double())
        new = _hits(features, block, self.rows, self._shown_F)
        self._best = _strongest(np.concatenate([self._best, new]), self._per_feature)
        self.rows += features.rows

    def interesting(self, count: int) -> list[int]:
        """Latents that are neither rare nor dense, strongest first, without shared hits."""
        chosen: list[int] = []
        shown: set[int] = set()
        for feature in self._ranked():
            rows = set(self._best["row"][self._best["feature"] == feature].tolist())
            if shown.isdisjoint(rows):
                chosen.append(feature)
                shown |= rows
            if len(chosen) == count:
                break
        return chosen

    def _ranked(self) -> list[int]:
        """Latents that are neither rare nor dense, strongest first."""
        frequency_F = self._fired_F.double() / self.rows
        low, high = FREQUENCY_RANGE
        qualifies_F = (frequency_F >= low) & (frequency_F <= high)
        qualifies_F &= self._kept_counts() >= self._per_feature
        mean_F = self._total_F / self._fired_F.clamp_min(1)
        candidates = qualifies_F.nonzero().squeeze(1)
        order = torch.argsort(mean_F[candidates], descending=True, stable=True)
        return [int(feature) for feature in candidates[order]]

    def of(self, feature: int) -> FeatureHits:
        """Frequency, and the strongest activations first; without hits where it never fired."""
        mine = self._best[self._best["feature"] == feature]
        hits = [
            Hit(float(hit["activation"]), *(int(hit[name]) for name in Hit._fields[1:]))
            for hit in mine
        ]
        return FeatureHits(feature, float(self._fired_F[feature]) / self.rows, hits)

    def _kept_counts(self) -> Tensor:
        counts = np.bincount(self._best["feature"], minlength=self._fired_F.numel())
        return torch.as_tensor(counts)


def _check(model: InferenceModel, features: Sequence[int] | int, per_feature: int) -> None:
    if per_feature < 1:
        raise SpecError("contexts_per_feature", f"must be at least 1; got {per_feature}")
    if isinstance(features, int):
        if features < 1:
            raise SpecError("context_features", f"must be at least 1; got {features}")
        return
    d_sae = model.config.d_sae
    for feature in features:
        if not 0 <= feature < d_sae:
            raise SpecError(
                "features", f"{feature} is not in 0 .. {d_sae - 1}", remedy="name latents it has"
            )


def _hits(features: SparseRows, block: HeldoutRows, first_row: int, shown_F: Tensor) -> _Hits:
    """The firings of shown latents in one block."""
    chosen_N = shown_F[features.latents]
    rows = features.row_of_entry[chosen_N].numpy()
    hits = np.zeros(rows.size, _HIT)
    hits["feature"] = features.latents[chosen_N].numpy()
    hits["activation"] = features.values[chosen_N].numpy()
    hits["document"] = block.document[rows]
    hits["sequence"] = block.sequence[rows]
    hits["position"] = block.position[rows]
    hits["row"] = rows + first_row
    return hits


def _strongest(hits: _Hits, per_feature: int) -> _Hits:
    """The best hit of each sequence, and of those the strongest `per_feature` a feature."""
    ordered = hits[np.lexsort((hits["row"], -hits["activation"], hits["feature"]))]
    first = ordered[np.sort(_first_of_each_sequence(ordered))]
    starts = np.searchsorted(first["feature"], first["feature"])
    return first[np.arange(first.size) - starts < per_feature]


def _first_of_each_sequence(hits: _Hits) -> npt.NDArray[np.int64]:
    """Where each (feature, document, sequence) comes first; unknown sequences are single rows."""
    sequence = np.where(hits["sequence"] < 0, -1 - hits["row"], hits["sequence"])
    keys = np.stack([hits["feature"], hits["document"], sequence])
    order = np.lexsort(keys[::-1])
    differs = (np.diff(keys[:, order]) != 0).any(axis=0)
    return order[np.concatenate([np.ones(min(1, hits.size), np.bool_), differs])]
