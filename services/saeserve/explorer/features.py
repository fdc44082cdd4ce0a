"""Pages of features: the list of a model's, and one feature."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BeforeValidator

from saeserve.client import Client, FeatureFilter
from saeserve.client.errors import PreconditionError
from saeserve.client.feature_bundles import Order
from saeserve.client.feature_values import (
    Feature,
    FeatureBundle,
    FeatureContext,
    FeatureHistogram,
    FeaturePage,
    TokenFeatures,
)
from saeserve.client.model_values import Model
from saeserve.explorer.answering import view
from saeserve.explorer.calling import CallersClient, KeptPictures
from saeserve.explorer.contexts import Segment, segments
from saeserve.explorer.failures import NeedsJobError
from saeserve.explorer.jobs import PAGE, PageNumber
from saeserve.explorer.models import reference_of
from saeserve.explorer.plots import Bars, Plot
from saeserve.explorer.steering import SteerForm, form_of_feature


def _given(value: object) -> object:
    """Forms send the fields that were left empty."""
    return None if value == "" else value


Share = Annotated[float | None, BeforeValidator(_given), Query(ge=0, le=1)]
Choice = Annotated[bool | None, BeforeValidator(_given)]
Words = Annotated[str, Query(max_length=200)]
CollectJob = Annotated[str, Query(max_length=64)]
"""Whose bundle is shown; "" for the newest one of the version."""

router = APIRouter()


@dataclass(frozen=True)
class FeatureList:
    """One page of a model's features, and what was asked for; `job` as asked for."""

    reference: str
    job: str
    bundle: FeatureBundle
    found: FeaturePage
    where: FeatureFilter
    sort: Order
    ascending: bool
    page: int
    more: bool
    token: str
    tokens: tuple[TokenFeatures, ...]
    """What a search by token found: tokens that match, with the features that fire most on them."""


@dataclass(frozen=True)
class ShownContext:
    """A context as a page shows it."""

    context: FeatureContext
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class ShownInterval:
    """Firings of magnitude in [low, high): how many, and some."""

    low: float
    high: float
    count: int
    contexts: tuple[ShownContext, ...]


@dataclass(frozen=True)
class FeatureView:
    """One feature of a model, from the bundle of `job` as asked for; `before` and `after` are its
    neighbours by number."""

    reference: str
    job: str
    bundle: FeatureBundle
    feature: Feature
    top: tuple[ShownContext, ...]
    intervals: tuple[ShownInterval, ...]
    uniform: tuple[ShownContext, ...]
    before: int | None
    after: int | None
    steer: SteerForm


@view(router, "/models/{reference}/features", "features.html", "Features of a model")
def feature_list(
    request: Request,  # noqa: ARG001 - of every view
    client: CallersClient,
    reference: str,
    job: CollectJob = "",
    sort: Order = "density",
    ascending: bool = False,
    min_density: Share = None,
    max_density: Share = None,
    dead: Choice = None,
    label: Words = "",
    token: Words = "",
    page: PageNumber = 1,
) -> FeatureList:
    """Show the features that pass a filter, or those that fire most on a token."""
    model = client.models.get(reference)
    where = FeatureFilter(min_density, max_density, None, dead, label)
    name, first = reference_of(model), (page - 1) * PAGE
    with _collected(model):
        found = client.features.page(
            name, where=where, order_by=sort, ascending=ascending, skip=first, size=PAGE, job=job
        )
        searched = token.strip()
        return FeatureList(
            reference=name,
            job=job,
            bundle=client.features.describe(name, job=found.job),
            found=found,
            where=where,
            sort=sort,
            ascending=ascending,
            page=page,
            more=found.total > first + PAGE,
            token=token,
            tokens=client.features.search_token(name, token, job=found.job) if searched else (),
        )


@view(router, "/models/{reference}/features/{number}", "feature.html", "One feature of a model")
def feature_page(
    request: Request,  # noqa: ARG001 - of every view
    client: CallersClient,
    reference: str,
    number: int,
    job: CollectJob = "",
) -> FeatureView:
    """Show a feature."""
    model = client.models.get(reference)
    found, bundle = _read(client, model, number, job)
    largest = found.summary.max
    return FeatureView(
        reference=reference_of(model),
        job=job,
        bundle=bundle,
        feature=found,
        top=_shown(found.top, largest),
        intervals=tuple(
            ShownInterval(each.low, each.high, each.count, _shown(each.contexts, largest))
            for each in found.intervals
        ),
        uniform=_shown(found.uniform, largest),
        before=number - 1 if number > 0 else None,
        after=number + 1 if number + 1 < bundle.d_sae else None,
        steer=form_of_feature(model, found, bundle),
    )


@router.get("/models/{reference}/features/{number}/histogram.svg", include_in_schema=False)
def histogram(
    request: Request,
    client: CallersClient,
    pictures: KeptPictures,
    reference: str,
    number: int,
    job: CollectJob = "",
    narrow: bool = False,
) -> Response:
    """Draw how strongly a feature fires."""
    found, bundle = _read(client, client.models.get(reference), number, job)
    plot = histogram_plot(found.histogram, found.summary.count, bundle.rows)
    return pictures.answer(request, plot, narrow=narrow)


def histogram_plot(found: FeatureHistogram, count: int, rows: int) -> Plot:
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


def _read(client: Client, model: Model, number: int, job: str) -> tuple[Feature, FeatureBundle]:
    """What its page shows, and the bundle that has it."""
    name = reference_of(model)
    with _collected(model):
        found = client.features.get(name, number, job=job)
        return found, client.features.describe(name, job=found.job)


@contextmanager
def _collected(model: Model) -> Generator[None]:
    """Have a refusal for want of a bundle name the command that makes one."""
    try:
        yield
    except PreconditionError as error:
        name, data = reference_of(model), model.dataset or "DATASET"
        command = f"saeserve submit collect --model {name} --dataset {data} --watch"
        raise NeedsJobError.after(error, command) from error


def _shown(contexts: tuple[FeatureContext, ...], largest: float) -> tuple[ShownContext, ...]:
    return tuple(ShownContext(each, segments(each, largest)) for each in contexts)
