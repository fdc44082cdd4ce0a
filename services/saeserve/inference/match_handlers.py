"""The use case that matches the features of two models, and keeps what it found."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

import torch

from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.export.matching import Matches, matches
from saeserve.errors import InvalidInput
from saeserve.inference.metrics import InferenceMetrics
from saeserve.inference.model_cache import Loaded, ModelCache
from saeserve.inference.work import Operation

KEPT_PAIRS = 16
"""Pairs of models whose matches are remembered: at most some megabytes each."""


@dataclass(frozen=True)
class Matched:
    """The versions that were matched, and how."""

    model: str
    other: str
    found: Matches


class MatchHandlers:
    """Matches features of published models, one pair at a time: each takes all processors for
    seconds."""

    def __init__(self, models: ModelCache[InferenceModel], metrics: InferenceMetrics) -> None:
        self._models = models
        self._metrics = metrics
        self._one = asyncio.Lock()
        # Versions never change, so an answer is good for as long as it is kept.
        self._kept: OrderedDict[tuple[str, str], Matches] = OrderedDict()

    async def match(self, model: str, other: str) -> Matched:
        """The features of `model`, and for each the nearest of `other`.

        Raises InvalidInput for models that write rows of different widths.
        """
        with self._metrics.models.call(Operation.MATCH_FEATURES) as call:
            async with self._models.use(model) as first, self._models.use(other) as second:
                call.resource = first.resource
                _check_widths(first, second)
                pair = (first.resource, second.resource)
                async with self._one:
                    found = self._kept.pop(pair, None)
                    if found is None:
                        found = await asyncio.to_thread(_matches, first.model, second.model)
                    self._keep(pair, found)
                return Matched(*pair, found)

    def _keep(self, pair: tuple[str, str], found: Matches) -> None:
        self._kept[pair] = found
        while len(self._kept) > KEPT_PAIRS:
            self._kept.popitem(last=False)


def _matches(model: InferenceModel, other: InferenceModel) -> Matches:
    with torch.inference_mode():
        return matches(model, other)


def _check_widths(first: Loaded[InferenceModel], second: Loaded[InferenceModel]) -> None:
    wide, other = first.model.config.d_out, second.model.config.d_out
    if wide != other:
        raise InvalidInput(
            f"{first.resource} writes rows of width {wide}, {second.resource} of {other}: their "
            "features have no directions in common",
            code="WIDTHS_DIFFER",
            field="other",
            remedy="name two models of the same site of one language model",
        )
