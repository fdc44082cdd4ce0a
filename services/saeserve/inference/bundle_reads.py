"""Reads of an open bundle, and what they were asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from saeserve.core.features.queries import MAX_PAGE
from saeserve.core.features.values import (
    Context,
    Feature,
    FeatureFilter,
    FeatureList,
    Group,
    SortKey,
)
from saeserve.errors import FailedPrecondition
from saeserve.inference.bundle_handlers import Asked, Opened
from saeserve.inference.refusals import no_such_feature

MOST_FEATURES = 256
MOST_CONTEXTS = 256
MOST_TOKENS = 100
MOST_PAGE = MAX_PAGE


@dataclass(frozen=True)
class ListQuery:
    """Which features of a bundle, in which order; `offset` are passed over."""

    asked: Asked
    order: SortKey = "density"
    ascending: bool = False
    where: FeatureFilter = field(default_factory=FeatureFilter)
    offset: int = 0
    size: int = 50
    scope: str = ""
    """The conditions of the listing, to which its page tokens belong."""
    continued: bool = False
    """Whether a page token says which bundle it is."""


@dataclass(frozen=True)
class FeatureQuery:
    """What a GetFeatureRequest asks."""

    asked: Asked
    feature: int


@dataclass(frozen=True)
class ContextsQuery:
    """Contexts of several features."""

    asked: Asked
    features: tuple[int, ...]
    group: Group
    count: int


@dataclass(frozen=True)
class TokenQuery:
    """Tokens by their text."""

    asked: Asked
    text: str
    count: int


def page(query: ListQuery, opened: Opened) -> FeatureList:
    """Read as many lines as were asked for."""
    return opened.bundle.list_features(
        query.order,
        descending=not query.ascending,
        where=query.where,
        offset=query.offset,
        limit=query.size,
    )


def feature(query: FeatureQuery, opened: Opened) -> Feature:
    """The feature. Raises InvalidInput for one that the model does not have."""
    check_feature(opened, query.feature, "feature")
    return opened.bundle.feature(query.feature)


def contexts(query: ContextsQuery, opened: Opened) -> Iterator[tuple[int, tuple[Context, ...]]]:
    """Each feature with its contexts. Raises InvalidInput for one that the model does not have."""
    for index, each in enumerate(query.features):
        check_feature(opened, each, f"features[{index}]")
    for each in query.features:
        yield each, opened.bundle.contexts(each, query.group, query.count)


def check_feature(opened: Opened, number: int, where: str) -> None:
    """Raise InvalidInput, naming the field `where`, for a feature that the model does not have."""
    d_sae = opened.bundle.manifest.d_sae
    if not 0 <= number < d_sae:
        raise no_such_feature(opened.resource, d_sae, number, where)


def stale_page() -> FailedPrecondition:
    """The refusal of a page of a listing whose bundle was deleted."""
    return FailedPrecondition(
        "the bundle that this listing is of was deleted",
        code="STALE_PAGE_TOKEN",
        field="page_token",
        remedy="begin again without a page token",
    )
