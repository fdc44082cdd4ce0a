"""Features of two models that point into similar directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from saeserve.client import Client, FeatureFilter
from saeserve.client.errors import ClientError
from saeserve.client.feature_values import FeatureSummary
from saeserve.client.features import IntArray
from saeserve.client.matching import FeatureMatches
from saeserve.explorer.failures import failure_of
from saeserve.explorer.jobs import PAGE

MATCHED = 0.7
"""The cosine of decoder rows from which on features of two models are called matched."""


@dataclass(frozen=True)
class Pair:
    """Two features, each the nearest to the other, and what is known of them from bundles."""

    first: int
    second: int
    cosine: float
    first_known: FeatureSummary | None
    second_known: FeatureSummary | None


@dataclass(frozen=True)
class PairList:
    """One page of the mutual pairs, the most alike first, and how many features are matched.

    `matched` and `mutual` are counts among the `compared` features of the first model, of which
    `live` are not dead: of wide models some are compared, chosen by a hash of their numbers.
    """

    pairs: tuple[Pair, ...]
    compared: int
    live: int
    other_live: int
    matched: int
    mutual: int
    at_least: float
    more: bool
    refused: str
    """Why the two could not be matched; "" where they were."""


def pairs_of(client: Client, first: str, second: str, page: int) -> PairList:
    """Match two versions. Those that cannot be matched, of different widths for example, can still
    be compared by their figures."""
    try:
        found = client.inference.match_features(first, second)
    except ClientError as error:
        return PairList((), 0, 0, 0, 0, 0, MATCHED, more=False, refused=failure_of(error).message)
    ends = page * PAGE
    chosen = _most_alike(found)[ends - PAGE : ends]
    here, there = found.features[chosen].tolist(), found.matches[chosen].tolist()
    ours, theirs = _known(client, first, here), _known(client, second, there)
    return PairList(
        tuple(
            Pair(a, b, cosine, ours.get(a), theirs.get(b))
            for a, b, cosine in zip(here, there, found.cosines[chosen].tolist(), strict=True)
        ),
        compared=len(found.features),
        live=found.live_features,
        other_live=found.other_live_features,
        matched=int((found.cosines >= MATCHED).sum()),
        mutual=int(found.mutual.sum()),
        at_least=MATCHED,
        more=int(found.mutual.sum()) > ends,
        refused="",
    )


def _most_alike(found: FeatureMatches) -> IntArray:
    """Places of the mutual pairs, by falling cosine; of equal ones, the lower feature first."""
    places = np.flatnonzero(found.mutual)
    return places[np.argsort(-found.cosines[places], kind="stable")]


def _known(client: Client, model: str, features: Sequence[int]) -> Mapping[int, FeatureSummary]:
    """Figures and labels of features; none where nothing was collected or may be read."""
    if not features:
        return {}
    try:
        where = FeatureFilter(features=tuple(features))
        page = client.features.page(model, where=where, size=len(features))
    except ClientError:
        return {}
    return {each.feature: each for each in page.features}
