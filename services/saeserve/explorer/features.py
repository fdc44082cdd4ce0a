"""Pages of features: the list of a model's, and one feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BeforeValidator

from saeserve.explorer.answering import view
from saeserve.explorer.calling import CallersClient, CallersFeatures, KeptPictures
from saeserve.explorer.contexts import Segment, segments
from saeserve.explorer.jobs import PAGE, PageNumber
from saeserve.explorer.models import reference_of
from saeserve.explorer.plots import Bars, Plot
from saeserve.explorer.reading import (
    Collection,
    Context,
    Feature,
    FeatureFilter,
    FeatureList,
    Histogram,
    Sort,
    TokenFeatures,
)


def _given(value: object) -> object:
    """Forms send the fields that were left empty."""
    return None if value == "" else value


Share = Annotated[float | None, BeforeValidator(_given), Query(ge=0, le=1)]
Choice = Annotated[bool | None, BeforeValidator(_given)]
Words = Annotated[str, Query(max_length=200)]

router = APIRouter()


@dataclass(frozen=True)
class FeaturesPage:
    """One page of a model's features, and what was asked for."""

    reference: str
    collection: Collection
    found: FeatureList
    where: FeatureFilter
    sort: Sort
    ascending: bool
    page: int
    more: bool
    token: str
    tokens: tuple[TokenFeatures, ...]
    """What a search by token found: tokens that match, with the features that fire most on them."""


@dataclass(frozen=True)
class ShownContext:
    """A context as a page shows it."""

    context: Context
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class ShownInterval:
    """Firings of magnitude in [low, high): how many, and some."""

    low: float
    high: float
    count: int
    contexts: tuple[ShownContext, ...]


@dataclass(frozen=True)
class FeaturePage:
    """One feature of a model; `before` and `after` are its neighbours by number."""

    reference: str
    collection: Collection
    feature: Feature
    top: tuple[ShownContext, ...]
    intervals: tuple[ShownInterval, ...]
    uniform: tuple[ShownContext, ...]
    before: int | None
    after: int | None


@view(router, "/models/{reference}/features", "features.html", "Features of a model")
def feature_list(
    request: Request,  # noqa: ARG001 - of every view
    client: CallersClient,
    features: CallersFeatures,
    reference: str,
    sort: Sort = "density",
    ascending: bool = False,
    min_density: Share = None,
    max_density: Share = None,
    dead: Choice = None,
    label: Words = "",
    token: Words = "",
    page: PageNumber = 1,
) -> FeaturesPage:
    """Show the features that pass a filter, or those that fire most on a token."""
    model = reference_of(client.models.get(reference))
    where = FeatureFilter(min_density, max_density, None, dead, label)
    first = (page - 1) * PAGE
    found = features.list(
        model, where, sort=sort, descending=not ascending, offset=first, limit=PAGE
    )
    return FeaturesPage(
        reference=model,
        collection=features.describe(model),
        found=found,
        where=where,
        sort=sort,
        ascending=ascending,
        page=page,
        more=found.total > first + PAGE,
        token=token,
        tokens=features.search_token(model, token) if token.strip() else (),
    )


@view(router, "/models/{reference}/features/{number}", "feature.html", "One feature of a model")
def feature_page(
    request: Request,  # noqa: ARG001 - of every view
    client: CallersClient,
    features: CallersFeatures,
    reference: str,
    number: int,
) -> FeaturePage:
    """Show a feature."""
    model = reference_of(client.models.get(reference))
    found, collection = features.feature(model, number), features.describe(model)
    largest = found.line.max
    return FeaturePage(
        reference=model,
        collection=collection,
        feature=found,
        top=_shown(found.top, largest),
        intervals=tuple(
            ShownInterval(each.low, each.high, each.count, _shown(each.contexts, largest))
            for each in found.intervals
        ),
        uniform=_shown(found.uniform, largest),
        before=number - 1 if number > 0 else None,
        after=number + 1 if number + 1 < collection.d_sae else None,
    )


@router.get("/models/{reference}/features/{number}/histogram.svg", include_in_schema=False)
def histogram(
    request: Request,
    client: CallersClient,
    features: CallersFeatures,
    pictures: KeptPictures,
    reference: str,
    number: int,
    narrow: bool = False,
) -> Response:
    """Draw how strongly a feature fires."""
    model = reference_of(client.models.get(reference))
    found = features.feature(model, number)
    plot = histogram_plot(found.histogram, found.line.count, features.describe(model).rows)
    return pictures.answer(request, plot, narrow=narrow)


def histogram_plot(found: Histogram, count: int, rows: int) -> Plot:
    """Firings by magnitude, on logarithmic axes; bins outside the first and last firing left
    out."""
    full = [at for at, each in enumerate(found.counts) if each]
    first, last = (full[0], full[-1]) if full else (0, 0)
    return Plot(
        title=f"Activations (n = {count:,} firings of {rows:,} rows)",
        x_label="activation, in the model's units",
        y_label="firings",
        bars=(Bars("", found.edges[first : last + 2], found.counts[first : last + 1]),),
        x_log=True,
        y_log=bool(full),
    )


def _shown(contexts: tuple[Context, ...], largest: float) -> tuple[ShownContext, ...]:
    return tuple(ShownContext(each, segments(each, largest)) for each in contexts)
