"""The use cases that look at features: steer by them, their neighbours, the most active ones."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.export.looking import Nearest, activity, neighbours
from saeserve.core.export.steering import Change, change_of
from saeserve.core.specs.steering import EditSpec, check_features
from saeserve.errors import InvalidInput, SpecError
from saeserve.inference.batcher import Batcher
from saeserve.inference.checks import (
    RowNumbers,
    check_result,
    check_width,
    mismatch,
    no_rows,
    rows_beyond,
)
from saeserve.inference.engine import refusing_exhaustion, sparse_rows
from saeserve.inference.metrics import InferenceMetrics
from saeserve.inference.model_cache import Loaded, ModelCache
from saeserve.inference.refusals import no_such_feature, outside_float32
from saeserve.inference.rows import DenseRows, FeatureRows, FloatArray
from saeserve.inference.work import Operation, Served
from saeserve.platform.status import refused_spec

MOST_NEIGHBOURS = 256
KEPT_ANSWERS = 4096
"""Features whose neighbours are remembered: some kilobytes each."""
Order = Literal["max", "mean", "rows"]


@dataclass(frozen=True)
class Steering:
    """What is to be done with rows."""

    rows: DenseRows
    edits: tuple[EditSpec, ...]
    target: DenseRows | None = None
    """Rows of the site that a transcoder writes."""
    chosen: RowNumbers | None = None
    """Numbers of the rows to steer; None for all."""


@dataclass(frozen=True)
class Steered:
    """Rows as they are after the edits, and how many changed."""

    activations: DenseRows
    model: str
    served: Served
    rows_by_edit: tuple[int, ...]
    rows_changed: int
    beyond: RowNumbers


@dataclass(frozen=True)
class Active:
    """A feature and how it fires in some rows."""

    feature: int
    max: float
    mean: float
    rows: int


@dataclass(frozen=True)
class TopFound:
    """The most active features of rows."""

    features: tuple[Active, ...]
    model: str
    served: Served
    beyond: RowNumbers


class FeatureHandlers:
    """Steer, neighbours and top features with published models."""

    def __init__(
        self,
        models: ModelCache[InferenceModel],
        batcher: Batcher[InferenceModel],
        metrics: InferenceMetrics,
    ) -> None:
        self._models = models
        self._batcher = batcher
        self._metrics = metrics
        # A version never changes, so an answer is good for as long as it is kept.
        self._nearest: OrderedDict[tuple[str, int], Nearest] = OrderedDict()

    async def steer(self, model: str, given: Steering, deadline: float | None) -> Steered:
        """The rows after the edits; a transcoder's target rows."""
        with self._metrics.models.call(Operation.STEER) as call:
            async with self._models.use(model) as loaded:
                call.resource = loaded.resource
                _check_steering(loaded, given)
                served, features = await self._features(loaded, given.rows, deadline)
                change = await asyncio.to_thread(_change, loaded.model, features, given)
                return await _steered(loaded, given, served, change)

    async def neighbours(
        self, model: str, features: Sequence[int], count: int
    ) -> tuple[str, list[Nearest]]:
        """The version that answers, and for each feature its `count` nearest ones by the cosine of
        decoder rows. Raises InvalidInput for a feature that does not exist."""
        with self._metrics.models.call(Operation.NEIGHBOURS) as call:
            async with self._models.use(model) as loaded:
                call.resource = loaded.resource
                _check_asked(loaded, features)
                known = self._known(loaded.resource, features)
                missing = [feature for feature in features if feature not in known]
                if missing:
                    found = await asyncio.to_thread(_neighbours, loaded.model, missing)
                    known |= dict(zip(missing, found, strict=True))
                self._keep(loaded.resource, known)
                return loaded.resource, [_first(known[feature], count) for feature in features]

    async def top_features(
        self, model: str, rows: DenseRows, count: int, order: Order, deadline: float | None
    ) -> TopFound:
        """The `count` features that are most active in raw rows [rows, d_in]."""
        with self._metrics.models.call(Operation.TOP_FEATURES) as call:
            async with self._models.use(model) as loaded:
                call.resource = loaded.resource
                check_width(rows, loaded)
                served, features = await self._features(loaded, rows, deadline)
                found = await asyncio.to_thread(_most_active, features, count, order)
                far = await rows_beyond(loaded, rows)
                return TopFound(found, loaded.resource, served, far)

    async def _features(
        self, loaded: Loaded[InferenceModel], rows: DenseRows, deadline: float | None
    ) -> tuple[Served, FeatureRows]:
        """What Encode gives of the rows, by whatever engine serves."""
        served = await self._batcher.submit(
            loaded.resource, loaded.model, Operation.ENCODE, rows, deadline
        )
        if not isinstance(served.rows, FeatureRows):
            raise TypeError("encode gave no features; this is a bug")
        self._metrics.encode_rows.inc(rows.rows)
        return served, served.rows

    def _known(self, resource: str, features: Sequence[int]) -> dict[int, Nearest]:
        kept = {feature: self._nearest.get((resource, feature)) for feature in features}
        return {feature: nearest for feature, nearest in kept.items() if nearest is not None}

    def _keep(self, resource: str, found: Mapping[int, Nearest]) -> None:
        """Remember answers; those that were used least recently go first."""
        for feature, nearest in found.items():
            self._nearest[resource, feature] = nearest
            self._nearest.move_to_end((resource, feature))
        while len(self._nearest) > KEPT_ANSWERS:
            self._nearest.popitem(last=False)


def _check_steering(loaded: Loaded[InferenceModel], given: Steering) -> None:
    config = loaded.model.config
    check_width(given.rows, loaded)
    check_result(given.rows.rows, config.d_out)
    try:
        check_features(given.edits, config.d_sae, "edits")
    except SpecError as error:
        raise refused_spec(error) from None
    _check_target(loaded, given)
    chosen = no_rows() if given.chosen is None else given.chosen
    outside = chosen[(chosen < 0) | (chosen >= given.rows.rows)]
    if len(outside):
        raise InvalidInput(
            f"there is no row {outside[0]}: the request has {given.rows.rows} rows",
            code="NO_SUCH_ROW",
            field="rows.rows",
            remedy="number the rows from 0, with the leading axes flattened",
        )


def _check_target(loaded: Loaded[InferenceModel], given: Steering) -> None:
    config, target = loaded.model.config, given.target
    if config.transcodes is not (target is not None):
        names = ", ".join(source.name for source in config.outputs)
        what = f"is a transcoder: rows of {names}, which it writes, are what it can move"
        raise InvalidInput(
            f"{loaded.resource} {what if config.transcodes else 'reads and writes the same rows'}",
            code="NEEDS_TARGET" if config.transcodes else "NEEDS_NO_TARGET",
            field="target",
            remedy="send them as target" if config.transcodes else "leave target out",
        )
    if target is None:
        return
    if target.d != config.d_out:
        raise mismatch(loaded, "d_out", config.d_out, target.d, "target.shape")
    if target.rows != given.rows.rows:
        raise InvalidInput(
            f"target has {target.rows} rows, activations {given.rows.rows}",
            code="ROWS_DIFFER",
            field="target.shape",
            remedy="send one row of the target for each row of the input",
        )


def _change(model: InferenceModel, features: FeatureRows, given: Steering) -> Change:
    chosen_B = None
    if given.chosen is not None:
        chosen_B = torch.zeros(features.rows, dtype=torch.bool)
        chosen_B[torch.as_tensor(given.chosen)] = True
    with refusing_exhaustion(features.rows), torch.inference_mode():
        return change_of(model, sparse_rows(features), given.edits, chosen_B)


async def _steered(
    loaded: Loaded[InferenceModel], given: Steering, served: Served, change: Change
) -> Steered:
    moved = given.rows if given.target is None else given.target
    return Steered(
        DenseRows(await asyncio.to_thread(_applied, change, moved)),
        loaded.resource,
        served,
        change.rows_by_edit,
        int(change.changed_B.sum()),
        await rows_beyond(loaded, given.rows),
    )


def _applied(change: Change, rows: DenseRows) -> FloatArray:
    with torch.inference_mode():
        moved: FloatArray = change.applied(torch.tensor(rows.x)).numpy()
    if not np.isfinite(moved).all():
        raise outside_float32()
    return moved


def _check_asked(loaded: Loaded[InferenceModel], features: Sequence[int]) -> None:
    d_sae = loaded.model.config.d_sae
    for index, feature in enumerate(features):
        if not 0 <= feature < d_sae:
            raise no_such_feature(loaded.resource, d_sae, feature, f"features[{index}]")


def _neighbours(model: InferenceModel, features: Sequence[int]) -> list[Nearest]:
    with refusing_exhaustion(len(features)), torch.inference_mode():
        return neighbours(model, features, MOST_NEIGHBOURS)


def _first(nearest: Nearest, count: int) -> Nearest:
    return Nearest(nearest.features[:count], nearest.cosines[:count])


def _most_active(features: FeatureRows, count: int, order: Order) -> tuple[Active, ...]:
    found = activity(sparse_rows(features))
    by = {"max": found.largest_A.abs(), "mean": found.mean_A, "rows": found.rows_A}[order]
    best = by.argsort(descending=True, stable=True)[:count]
    return tuple(
        Active(
            int(found.latents_A[place]),
            float(found.largest_A[place]),
            float(found.mean_A[place]),
            int(found.rows_A[place]),
        )
        for place in best
    )
